"""``d3pm sample RUN --num 4 --steps 64``: draw from a trained model, freely or guided to what is wanted."""

from collections.abc import Sequence
from typing import Any

from d3pm.cli.choices import grids, know_samplers
from d3pm.cli.continuous import Method, continuous
from d3pm.cli.forms import form_of, refuse_foreign
from d3pm.cli.guide import drawing
from d3pm.cli.model import load_generator
from d3pm.cli.parser import Parser
from d3pm.cli.texts import sharpened
from d3pm.errors import ConfigError
from d3pm.sampling import Sampler

DESCRIPTION = """Draw samples: texts are printed, one a line; pictures go to files, one sheet of them if none is named;
of a table the first rows are printed, or all of them are written to a file.

  d3pm sample runs/first --num 4 --steps 64 --seed 1
  d3pm sample runs/first --prompt "the ___ of python is" --watch
  d3pm sample runs/digits --num 64 --steps 50 --sampler DDIM --output digits.png
  d3pm sample runs/digits --num 8 --strip strip.png --walk walk.gif --steps 50
  d3pm sample runs/mnist --label 3 --guidance 2
  d3pm sample runs/adult --num 1000 --output people.csv
  d3pm sample runs/adult --impute holes.csv --output filled.csv

RUN is the folder of a run or one of its checkpoints. In a prompt every _ is a blank to be filled in, and so
is all that follows the prompt. (Where _ is a symbol of the model, as in byte pairs, a blank is ░.)
--impute takes a table with the columns of the model and fills the empty cells of it, those that hold ? or NaN
too; all other cells stay as they are. Each row is filled once; another --seed fills it in another way."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    know_samplers()
    parser = Parser(prog="d3pm sample", description=DESCRIPTION)
    parser.add_argument("run", metavar="RUN", type=str, help="folder of a run, or one of its checkpoints")
    _add_common(parser)
    _add_guidance(parser)
    _add_text(parser)
    _add_pictures(parser)
    _add_tables(parser)
    config = parser.parse_args(argv)
    _check_numbers(config)
    model, home = load_generator(config.run)
    form = form_of(model)
    refuse_foreign(form, config, parser.get_defaults())
    form.check(config)
    config.num = config.num or 4
    config.batch_size = config.batch_size or form.batch_size(model)
    draw = drawing(model, config, parser.instantiate(config).sampler)
    form.present(continuous(draw, config) if config.sde else draw, config, home)
    return 0


def _add_common(parser: Parser) -> None:
    parser.add_argument("--num", type=int | None, help="how many samples; null: 4")
    parser.add_argument(
        "--steps",
        type=int | list[int | float] | None,
        help="how many, at most T, or the times themselves, e.g. [1000,500,100,0]; null: T",
    )
    parser.add_argument(
        "--grid", type=str, default="uniform", help=f"how steps lie in time: {', '.join(grids())}"
    )
    parser.add_subclass_arguments(
        Sampler, "sampler", required=False, help="what takes the steps; ancestral if not given"
    )
    parser.add_argument(
        "--sde",
        type=Method | None,
        help="solve the equation in continuous time instead: Euler-Maruyama, predictor-corrector, probability flow",
    )
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal samples")
    parser.add_argument(
        "--batch_size", type=int | None, help="how many samples at a time; null: 64, of narrow tables more"
    )
    parser.add_argument(
        "--output",
        type=str | None,
        help="write the samples to this file: texts, one sheet of pictures (.png), a table (.csv, .tsv, .parquet)",
    )


def _add_guidance(parser: Parser) -> None:
    parser.add_argument(
        "--label", type=str, default="all", help="class, or classes in turn, e.g. 3 or 0,1,2; all; none"
    )
    parser.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        help="classifier-free: 1 is the class itself, more exaggerates it",
    )
    parser.add_argument("--rescale", type=float, default=0.0, help="0 … 1: against overexposure by guidance")
    parser.add_argument(
        "--classifier", type=str | None, help="run of a noisy classifier that guides to --label"
    )
    parser.add_argument("--classifier_scale", type=float, default=1.0, help="how strongly it does")


def _add_text(parser: Parser) -> None:
    parser.add_argument("--temperature", type=float, default=1.0, help="text: below 1: likelier tokens")
    parser.add_argument(
        "--top_p", type=float, default=1.0, help="text: only the likeliest tokens of this mass in all"
    )
    parser.add_argument(
        "--prompt", type=str | None, help="text to keep, with _ where something is to be filled in"
    )
    parser.add_argument("--watch", action="store_true", help="text: show the samples as they are denoised")


def _add_pictures(parser: Parser) -> None:
    parser.add_argument("--each", type=str | None, help="pictures: write each to its own file in this folder")
    parser.add_argument("--strip", type=str | None, help="pictures: show how they come about, in this .png")
    parser.add_argument("--walk", type=str | None, help="pictures: walk through latent space, in this .gif")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


def _add_tables(parser: Parser) -> None:
    parser.add_argument("--impute", type=str | None, help="tables: fill the empty cells of this table")


def _check_numbers(config: Any) -> None:
    for name in ("num", "batch_size"):
        if config[name] is not None and config[name] < 1:
            raise ConfigError(f"--{name} is {config[name]}: give 1 or more")


__all__ = ["main", "sharpened"]

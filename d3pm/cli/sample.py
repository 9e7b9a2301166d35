"""``d3pm sample RUN --num 4 --steps 64``: draw from a trained model, freely or as is wanted."""

import math
from collections.abc import Sequence
from typing import Any

from d3pm.cli.choices import grids, know_samplers, naming_samplers, times
from d3pm.cli.continuous import Method, continuous
from d3pm.cli.forms import form_of, refuse_foreign
from d3pm.cli.guide import drawing
from d3pm.cli.model import load_generator
from d3pm.cli.parser import Parser
from d3pm.compiled import Compiled, halves
from d3pm.errors import ConfigError
from d3pm.sampling import Sampler

DESCRIPTION = """Draw samples: texts are printed, one a line; pictures go to files, one sheet of them if none is named;
of a table the first rows are printed, or all of them are written to a file.

  d3pm sample runs/first --num 4 --steps 64 --seed 1
  d3pm sample runs/first --prompt "the ___ of python is" --watch
  d3pm sample runs/first --infill "the ____ of the ______" --sampler FirstHitting
  d3pm sample runs/first --pattern "[a-z]{3} the _____" --temperature 0.8
  d3pm sample runs/first --prompt "once upon a time" --length 1000 --block 64
  d3pm sample runs/digits --num 64 --steps 50 --sampler DDIM --output digits.png
  d3pm sample runs/digits --num 8 --strip strip.png --walk walk.gif --steps 50
  d3pm sample runs/digits --inpaint torn.png --mask mask.png --output filled.png
  d3pm sample runs/mnist --label 3 --guidance 2
  d3pm sample runs/adult --num 1000 --output people.csv
  d3pm sample runs/adult --impute holes.csv --output filled.csv

RUN is the folder of a run or one of its checkpoints. In a prompt every _ is a blank to be filled in, and so
is all that follows the prompt; --infill is a whole text with blanks. (Where _ is a symbol of the model, as in
byte pairs, a blank is ░.) In a pattern [abc], [a-z] and [^ ] are sets of characters, and {3} repeats.
--impute takes a table with the columns of the model and fills the empty cells of it, those that hold ? or NaN
too; all other cells stay as they are. Each row is filled once; another --seed fills it in another way.
--inpaint fills a picture of the model's size, or each of a folder, --num times: where it is transparent, or
where the mask is white. What it cost is said in network calls. Ctrl-C keeps the batches that are done;
of a job that is one batch that is nothing, so give a smaller --batch-size.

`torchrun --nproc-per-node 8 -m d3pm sample RUN -n 512` shares the batches among 8 processes; the samples are the
same. (torchrun takes --num for an option of its own: write -n.)"""


LARGEST_GUIDANCE = 1000
"""What lies beyond drowns the network's own numbers."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    know_samplers()
    parser = Parser(prog="d3pm sample", description=DESCRIPTION)
    parser.add_argument("run", metavar="RUN", type=str, help="folder of a run, or one of its checkpoints")
    for title, add in GROUPS.items():
        add(parser.add_argument_group(title))
    with naming_samplers():
        config = parser.parse_args(argv)
    steps = times(config.steps)
    _check_numbers(config)
    model, home = load_generator(config.run)
    form = form_of(model)
    refuse_foreign(form, config, parser.get_defaults())
    form.check(config)
    config.num = config.num or 4
    config.batch_size = config.batch_size or form.batch_size(model)
    sampler = parser.instantiate(config).sampler
    config.steps = steps
    draw = drawing(model, config, sampler, parser.get_defaults())
    if config.compile:
        draw.network = Compiled(draw.network, halves(config.batch_size))
    form.present(continuous(draw, config) if config.sde else draw, config, home)
    return 0


def _add_common(group: Any) -> None:
    group.add_argument("-n", "--num", type=int | None, help="how many samples; null: 4")
    group.add_argument("--seed", type=int, default=0, help="equal seeds (and batch sizes) give equal samples")
    group.add_argument(
        "--batch_size", type=int | None, help="how many samples at a time; null: 64, of narrow tables more"
    )
    group.add_argument(
        "--compile",
        action="store_true",
        help="compile the network, a minute or two before the first sample: pays on GPUs, for many samples",
    )
    group.add_argument(
        "--output",
        type=str | None,
        help="write the samples to this file: texts, one sheet of pictures (.png), a table (.csv, .tsv, .parquet)",
    )
    group.add_argument("--overwrite", action="store_true", help="replace files that exist")


def _add_steps(group: Any) -> None:
    group.add_argument(
        "--steps",
        type=str | None,
        help="how many, at most T, or the times themselves, e.g. 1000,500,100,0; null: what the sampler is used to",
    )
    group.add_argument(
        "--grid", type=str, default="uniform", help=f"how steps lie in time: {', '.join(grids())}"
    )
    group.add_subclass_arguments(
        Sampler,
        "sampler",
        required=False,
        help="what takes the steps, e.g. FirstHitting, DDIM; ancestral if not given",
    )
    group.add_argument(
        "--sde",
        type=Method | None,
        help="solve the equation in continuous time instead: Euler-Maruyama, predictor-corrector, probability flow",
    )


def _add_guidance(group: Any) -> None:
    group.add_argument(
        "--label",
        type=str | None,
        help="class, or classes in turn, e.g. 3 or 0,1,2; all; none; null: all, of an inpainting none",
    )
    group.add_argument(
        "--guidance",
        type=float,
        default=1.0,
        help="towards the class, or of a model without classes towards the prompt: 1 is as trained, more exaggerates",
    )
    group.add_argument("--rescale", type=float, default=0.0, help="0 … 1: against overexposure by guidance")
    group.add_argument(
        "--classifier", type=str | None, help="run of a noisy classifier that guides to --label"
    )
    group.add_argument("--classifier_scale", type=float, default=1.0, help="how strongly it does")


def _add_sharpness(group: Any) -> None:
    group.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier symbols")
    group.add_argument("--top_k", type=int | None, help="only so many, the likeliest")
    group.add_argument("--top_p", type=float, default=1.0, help="only the likeliest, of this mass in all")
    group.add_argument(
        "--min_p", type=float, default=0.0, help="only those at least this share as likely as the likeliest"
    )


def _add_text(group: Any) -> None:
    group.add_argument(
        "--prompt",
        type=str | None,
        help="text to keep and to go on with, _ where something is to be filled in",
    )
    group.add_argument(
        "--infill", type=str | None, help="a whole text, with _ for each symbol to be filled in"
    )
    group.add_argument(
        "--pattern",
        type=str | None,
        help="which characters each place of the text may hold: [a-z]{3} the _____",
    )
    group.add_argument("--length", type=int | None, help="symbols of a sample; null: as in training")
    group.add_argument(
        "--block",
        type=int | None,
        help="draw so many at a time; null: half of training's, if --length is more",
    )
    group.add_argument(
        "--context",
        type=int | None,
        help="symbols before a block that it sees; null: as many as training allows",
    )
    group.add_argument("--watch", action="store_true", help="show the samples as they are denoised")


def _add_pictures(group: Any) -> None:
    group.add_argument("--each", type=str | None, help="write each to its own file in this folder")
    group.add_argument("--strip", type=str | None, help="show how they come about, in this .png")
    group.add_argument("--walk", type=str | None, help="walk through latent space, in this .gif")
    group.add_argument("--inpaint", type=str | None, help="fill this picture's transparent pixels")
    group.add_argument("--mask", type=str | None, help="fill them where this picture is white instead")


def _add_tables(group: Any) -> None:
    group.add_argument("--impute", type=str | None, help="fill the empty cells of this table")


GROUPS = {
    "samples": _add_common,
    "steps": _add_steps,
    "classes and guidance": _add_guidance,
    "sharper beliefs over states": _add_sharpness,
    "texts": _add_text,
    "pictures": _add_pictures,
    "tables": _add_tables,
}


def _check_numbers(config: Any) -> None:
    for name in ("num", "batch_size"):
        if config[name] is not None and config[name] < 1:
            raise ConfigError(f"--{name} is {config[name]}: give 1 or more")
    if not abs(config.guidance) <= LARGEST_GUIDANCE:
        raise ConfigError(
            f"--guidance is {config.guidance}: give a number from -{LARGEST_GUIDANCE} to {LARGEST_GUIDANCE}; 1 is as "
            "trained"
        )
    if not math.isfinite(config.classifier_scale):
        raise ConfigError(f"--classifier_scale is {config.classifier_scale}: give a finite number")
    if config.prompt == "":
        raise ConfigError("--prompt is empty: give a text to go on with, or leave it out")

"""``d3pm evaluate RUN``: what a model is worth on held-out data, the bound term by term or an accuracy."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from d3pm.cli.by_time import plot, write_table
from d3pm.cli.experiment import load_data
from d3pm.cli.model import codec_of, load_model
from d3pm.cli.parser import Parser
from d3pm.cli.quality import check_samples, quality
from d3pm.cli.report import quality_lines, report_lines
from d3pm.cli.targets import check_new
from d3pm.data.base import DataSource
from d3pm.errors import ConfigError
from d3pm.evaluation import Report, TableQuality, bound_by_time, judge, unigram_entropy
from d3pm.model import DiffusionModel

DESCRIPTION = """Estimate the bound on held-out data: L_T, the diffusion terms, L_0, and their sum; or, of a classifier,
its accuracy.

  d3pm evaluate runs/first
  d3pm evaluate runs/first --split validation --num-examples 2000 --num-times 64 --json
  d3pm evaluate runs/digits --num-examples 64 --table terms.csv --plot terms.png
  d3pm evaluate runs/adult --samples 5000 --steps 100

RUN is the folder of a run or one of its checkpoints. The data is the run's, unless --data names another.
--table and --plot take every term, at T network calls a batch; for pictures they tell the distortion too.
--samples, for tables, draws rows too and says how far they are from real ones: in single columns (total
variation), in pairs of columns (Cramér's V, bias-corrected) and in what a classifier learns from them, beside
the same of training rows whose columns are shuffled one by one, and of training rows as they are."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser(prog="d3pm evaluate", description=DESCRIPTION)
    parser.add_argument("run", metavar="RUN", type=str, help="folder of a run, or one of its checkpoints")
    parser.add_argument(
        "--split", type=Literal["train", "validation", "test"], default="test", help="part of the data"
    )
    parser.add_argument(
        "--num_examples", type=int, default=512, help="examples, spread evenly over the split"
    )
    parser.add_argument(
        "--num_times", type=int, default=16, help="times for each; T-1 or more takes every term"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="examples a network call")
    parser.add_argument("--seed", type=int, default=0, help="seed of the times and the noise")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--table", type=str | None, help="write t, its term, rate and distortion to this .csv"
    )
    parser.add_argument("--plot", type=str | None, help="draw the same into this picture")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument("--samples", type=int | None, help="tables: draw so many rows and compare them")
    parser.add_argument("--steps", type=int | None, help="of --samples, at most T; null: T")
    parser.add_subclass_arguments(
        DataSource, "data", required=False, help="data to use instead of the run's own"
    )
    config = parser.parse_args(argv)
    if config.batch_size < 1:
        raise ConfigError(f"--batch_size is {config.batch_size}: give 1 or more")
    check_new(config.table, "--table", ".csv", config.overwrite)
    check_new(config.plot, "--plot", (".png", ".pdf", ".svg"), config.overwrite)
    model, home = load_model(config.run)
    check_samples(model, config)
    given = parser.instantiate(config).data
    data = load_data(home / "config.yaml") if given is None else given.read_in(codec_of(model))
    report, entropy = (
        _by_time(model, data, config) if config.table or config.plot else _estimate(model, data, config)
    )
    drawn = quality(model, data, config) if config.samples else None
    if config.json:
        print(as_json(report, entropy, config.split, drawn))
    else:
        print(report_lines(report, entropy, config.split, data))
        if drawn:
            print(quality_lines(drawn, config.split))
    return 0


def _estimate(model: DiffusionModel, data: DataSource, config: Any) -> tuple[Report, float | None]:
    numbers = ("num_examples", "num_times", "batch_size", "seed")
    return evaluate(model, data, config.split, **{name: config[name] for name in numbers})


def _by_time(model: DiffusionModel, data: DataSource, config: Any) -> tuple[Report, float | None]:
    """Every term, in a table or a plot; its sum is the report."""
    if model.objective.classifies:
        raise ConfigError(
            f"--table and --plot are of a bound, and {config.run} is a classifier: leave them out"
        )
    check_same_data(model, data)
    numbers = ("num_examples", "batch_size", "seed")
    found = bound_by_time(
        model, data.split(config.split), progress=True, **{name: config[name] for name in numbers}
    )
    if config.table:
        write_table(found, Path(config.table))
    if config.plot:
        plot(found, Path(config.plot))
    return found.report, entropy_of(data, config.split)


def as_json(report: Report, entropy: float | None, split: str, drawn: TableQuality | None = None) -> str:
    """All numbers as one JSON object, which has no NaN."""
    numbers: dict[str, Any] = report.as_dict() | ({} if entropy is None else {"unigram_entropy": entropy})
    if drawn:
        numbers["table"] = drawn.as_dict()
    return json.dumps({"split": split, **_known(numbers)})


def _known(value: Any) -> Any:
    """The same with None for every number that is none, however deep."""
    if isinstance(value, dict):
        return {name: _known(each) for name, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(
    model: DiffusionModel, data: DataSource, split: str, **options: Any
) -> tuple[Report, float | None]:
    """The report on a split, and the unigram entropy of that split, which a bound has to beat.

    Options are those of :func:`~d3pm.evaluation.judge.judge`.

    Raises:
        ConfigError: If the data is written in other symbols, or in blocks of another shape.
    """
    check_same_data(model, data)
    report = judge(model, data.split(split), progress=True, **options)
    return report, None if model.objective.classifies else entropy_of(data, split)


def entropy_of(data: DataSource, split: str) -> float:
    """Bits a symbol of a split, taken one by one."""
    return unigram_entropy(data.split(split), data.codec.num_symbols, data.codec)


def check_same_data(model: DiffusionModel, data: DataSource) -> None:
    """Refuse data that the model cannot read.

    Raises:
        ConfigError: If the data is written in other symbols, or in blocks of another shape.
    """
    theirs = (data.codec.num_symbols, tuple(data.shape))
    ours = (codec_of(model).num_symbols, tuple(model.shape))
    if theirs != ours:
        raise ConfigError(
            f"data: {theirs[0]} symbols in shape {theirs[1]}, but the model has {ours[0]} in {ours[1]}: "
            "evaluate on data of the code and the shape the model was trained with"
        )
    if data.codec != model.codec:
        raise ConfigError(
            "data: its code or tokenizer is not the model's, though of as many symbols: evaluate on data in the "
            "code that lies beside the model"
        )

"""``d3pm evaluate RUN``: what a model is worth on held-out data, the bound term by term or an accuracy."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from d3pm.cli import curve
from d3pm.cli.by_time import plot, write_table
from d3pm.cli.choices import grids, know_samplers, naming_samplers
from d3pm.cli.experiment import load_data
from d3pm.cli.model import codec_of, load_model
from d3pm.cli.parser import Parser
from d3pm.cli.quality import check_samples, plan_samples
from d3pm.cli.report import kind_of, quality_lines, report_lines
from d3pm.cli.targets import check_new
from d3pm.data.base import DataSource
from d3pm.errors import ConfigError
from d3pm.evaluation import QualityCurve, Report, bound_by_time, judge, unigram_entropy
from d3pm.model import DiffusionModel
from d3pm.parallel import everyone
from d3pm.sampling import Sampler

DESCRIPTION = """Estimate the bound on held-out data: L_T, the diffusion terms, L_0, and their sum; or, of a classifier,
its accuracy.

  d3pm evaluate runs/first
  d3pm evaluate runs/first --split validation --num-examples 2000 --num-times 64 --json
  d3pm evaluate runs/digits --num-examples 64 --table terms.csv --plot terms.png
  d3pm evaluate runs/adult --samples 5000 --steps 100
  d3pm evaluate runs/text8 --samples 64 --steps 16,64,256 --num-examples 0 --curve curve.png
  d3pm evaluate runs/mnist --samples 1000 --steps 50 --sampler DDIM --features runs/mnist-classifier

RUN is the folder of a run or one of its checkpoints. The data is the run's, unless --data names another.
--table and --plot take every term, at T network calls a batch; for pictures they tell the distortion too.
`torchrun --nproc-per-node 8 -m d3pm evaluate RUN` shares the batches among 8 processes; the numbers are the same.

--samples draws too, and says how far that is from what is real, beside the same of what costs nothing (symbols,
pixels or columns drawn one by one) and of what cannot be beaten (as much real data). Several --steps give the
quality by the number of network calls. --num-examples 0 leaves the bound out.
Tables: single columns (total variation), pairs of columns (Cramér's V, bias-corrected), and what a classifier learns.
Texts: surprise under a 6-gram model of the training text, and under --language-model if one is named; entropy,
runs of characters against held-out text (Jensen-Shannon), known words, variety and repetition. Low surprise alone
is no praise: text that repeats itself has it too.
Pictures: Fréchet distance in --features: pixels, inception, or the run of a classifier, which tells classes too."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    know_samplers()
    parser = Parser(prog="d3pm evaluate", description=DESCRIPTION)
    parser.add_argument("run", metavar="RUN", type=str, help="folder of a run, or one of its checkpoints")
    parser.add_argument(
        "--split", type=Literal["train", "validation", "test"], default="test", help="part of the data"
    )
    parser.add_argument(
        "--num_examples",
        type=int,
        default=512,
        help="examples, spread evenly over the split; 0: --samples only",
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
    _add_samples(parser)
    parser.add_subclass_arguments(
        DataSource, "data", required=False, help="data to use instead of the run's own"
    )
    with naming_samplers():
        config = parser.parse_args(argv)
    if config.batch_size < 1:
        raise ConfigError(f"--batch_size is {config.batch_size}: give 1 or more")
    if config.num_examples == 0 and config.samples is None:
        raise ConfigError("--num_examples is 0, which goes with --samples: give 1 or more, or --samples too")
    check_new(config.table, "--table", ".csv", config.overwrite)
    check_new(config.plot, "--plot", (".png", ".pdf", ".svg"), config.overwrite)
    model, home = load_model(config.run)
    check_samples(model, config)
    made = parser.instantiate(config)
    data = load_data(home / "config.yaml") if made.data is None else made.data.read_in(codec_of(model))
    check_same_data(model, data)
    plan = plan_samples(model, data, config, made.sampler) if config.samples else None
    report, entropy = _report(model, data, config)
    drawn = plan() if plan else None
    if not everyone().first:  # has helped
        return 0
    if drawn and config.samples_table:
        curve.write_table(drawn, Path(config.samples_table))
    if drawn and config.curve:
        curve.plot(drawn, Path(config.curve))
    if config.json:
        print(as_json(report, entropy, config.split, drawn))
        return 0
    if report:
        print(report_lines(report, entropy, config.split, data))
    if drawn:
        print(quality_lines(drawn, config.split))
    return 0


def _add_samples(parser: Parser) -> None:
    parser.add_argument("--samples", type=int | None, help="draw so many samples and compare them")
    parser.add_argument(
        "--steps",
        type=str | None,
        help="of --samples, at most T, or several, e.g. 8,16,64; null: the sampler's own",
    )
    parser.add_argument(
        "--grid", type=str, default="uniform", help=f"how steps lie in time: {', '.join(grids())}"
    )
    parser.add_subclass_arguments(
        Sampler, "sampler", required=False, help="what takes the steps; ancestral if not given"
    )
    parser.add_argument(
        "--curve", type=str | None, help="draw the quality by network calls into this picture"
    )
    parser.add_argument(
        "--samples_table", type=str | None, help="write cost and quality to this .csv, a row for each --steps"
    )
    parser.add_argument(
        "--language_model",
        type=str | None,
        help="texts: causal language model that scores them: folder, .gguf file or hub name",
    )
    parser.add_argument(
        "--features",
        type=str | None,
        help="pictures: pixels, inception, or the run of a classifier; null: pixels",
    )


def _report(model: DiffusionModel, data: DataSource, config: Any) -> tuple[Report | None, float | None]:
    """The bound or the accuracy; nothing if only samples are asked for."""
    if config.table or config.plot:
        return _by_time(model, data, config)
    if config.samples and config.num_examples == 0:
        return None, None
    return _estimate(model, data, config)


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
    team = everyone()
    found = bound_by_time(
        model, data.split(config.split), team=team, progress=True, **{name: config[name] for name in numbers}
    )
    if config.table and team.first:
        write_table(found, Path(config.table))
    if config.plot and team.first:
        plot(found, Path(config.plot))
    return found.report, entropy_of(data, config.split)


def as_json(
    report: Report | None, entropy: float | None, split: str, drawn: QualityCurve | None = None
) -> str:
    """All numbers as one JSON object, which has no NaN."""
    numbers: dict[str, Any] = {} if report is None else report.as_dict()
    numbers |= {} if entropy is None else {"unigram_entropy": entropy}
    if drawn:
        numbers |= {kind_of(drawn): drawn.points[-1].quality.as_dict(), "curve": list(drawn.rows())}
    return json.dumps({"split": split, **_known(numbers)})


def _known(value: Any) -> Any:
    """The same with None for every number that is none, however deep."""
    if isinstance(value, dict):
        return {name: _known(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_known(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(
    model: DiffusionModel, data: DataSource, split: str, **options: Any
) -> tuple[Report, float | None]:
    """The report on a split, and the unigram entropy of that split, which a bound has to beat.

    All processes that were started together have to ask: they share the work, and all get the answer.
    Options are those of :func:`~d3pm.evaluation.judge.judge`.

    Raises:
        ConfigError: If the data is written in other symbols, or in blocks of another shape.
    """
    check_same_data(model, data)
    report = judge(model, data.split(split), team=everyone(), progress=True, **options)
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

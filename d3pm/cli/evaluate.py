"""``d3pm evaluate RUN``: the bound on bits per dimension of held-out data, term by term."""

import json
import math
from collections.abc import Sequence
from typing import Literal

from d3pm.cli.experiment import load_data
from d3pm.cli.model import codec_of, load_model
from d3pm.cli.parser import Parser
from d3pm.cli.report import bound_lines
from d3pm.data.base import DataSource
from d3pm.errors import ConfigError
from d3pm.evaluation import BoundReport, estimate_bound, unigram_entropy
from d3pm.model import DiffusionModel

DESCRIPTION = """Estimate the bound on held-out data: L_T, the diffusion terms, L_0, and their sum.

  d3pm evaluate runs/first
  d3pm evaluate runs/first --split validation --num-examples 2000 --num-times 64 --json

RUN is the folder of a run or one of its checkpoints. The data is the run's, unless --data names another."""


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
    parser.add_subclass_arguments(
        DataSource, "data", required=False, help="data to use instead of the run's own"
    )
    config = parser.parse_args(argv)
    if config.batch_size < 1:
        raise ConfigError(f"--batch_size is {config.batch_size}: give 1 or more")
    model, home = load_model(config.run)
    data = parser.instantiate(config).data or load_data(home / "config.yaml")
    report, entropy = evaluate(
        model, data, config.split, config.num_examples, config.num_times, config.batch_size, config.seed
    )
    if config.json:
        numbers = {**report.as_dict(), "unigram_entropy": entropy}
        known = {name: n if math.isfinite(n) else None for name, n in numbers.items()}  # JSON has no NaN
        print(json.dumps({"split": config.split, **known}))
    else:
        print(bound_lines(report, entropy, config.split, data))
    return 0


def evaluate(
    model: DiffusionModel,
    data: DataSource,
    split: str,
    num_examples: int = 512,
    num_times: int = 16,
    batch_size: int = 32,
    seed: int = 0,
) -> tuple[BoundReport, float]:
    """The bound on a split and the unigram entropy of that split.

    Raises:
        ConfigError: If the data is written in other symbols, or in blocks of another shape.
    """
    theirs = (data.codec.num_symbols, tuple(data.shape))
    ours = (codec_of(model).num_symbols, tuple(model.shape))
    if theirs != ours:
        raise ConfigError(
            f"data: {theirs[0]} symbols in shape {theirs[1]}, but the model has {ours[0]} in {ours[1]}: "
            "evaluate on data with the tokenizer and the length the model was trained with"
        )
    if data.codec != model.codec:
        raise ConfigError(
            "data: its tokenizer is not the model's, though of as many symbols: evaluate on data with the "
            "tokenizer that lies beside the model"
        )
    examples = data.split(split)
    report = estimate_bound(
        model,
        examples,
        num_examples=num_examples,
        num_times=num_times,
        batch_size=batch_size,
        seed=seed,
        progress=True,
    )
    return report, unigram_entropy(examples, data.codec.num_symbols)

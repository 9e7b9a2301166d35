"""``d3pm plan-steps RUN --steps 16``: where so many steps lie best in time, measured and saved with the model."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from d3pm.cli.evaluate import check_same_data
from d3pm.cli.experiment import load_data
from d3pm.cli.model import codec_of, load_generator
from d3pm.cli.parser import Parser
from d3pm.cli.plan_report import Verdict, as_json, lines, plot, write_table
from d3pm.cli.report import unit
from d3pm.cli.targets import check_new, check_writable
from d3pm.data.base import DataSource
from d3pm.errors import ConfigError
from d3pm.evaluation.examples import check_numbers
from d3pm.evaluation.grid_bounds import judge_grids
from d3pm.evaluation.pair_terms import PairTerms, measure_pairs
from d3pm.evaluation.step_plan import RIVALS, candidate_times
from d3pm.model import DiffusionModel
from d3pm.training import RunFolder
from d3pm.training.checkpoint import reseal

DESCRIPTION = """Find the times at which a number of steps costs the model least: the term of the bound of every pair of
times is measured, one network call for each time, and the best way down is the shortest path through them.

  d3pm plan-steps runs/first --steps 16
  d3pm plan-steps runs/first --steps 8,16,32 --num-examples 64 --plot plan.png
  d3pm sample runs/first --steps 16 --grid optimal

The plans are written to the model's config.json, where older ones of as many steps give way; nothing else in RUN
changes. RUN is the folder of a run or one of its checkpoints. What is printed is the bound on another split than
the plans were made on: the test split, or the validation split if --split is test. A plan that is surely worse
there than even steps, or than those of a cosine, is not saved."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser(prog="d3pm plan-steps", description=DESCRIPTION)
    parser.add_argument("run", metavar="RUN", type=str, help="folder of a run, or one of its checkpoints")
    parser.add_argument("--steps", type=str, required=True, help="how many, e.g. 16, or a list: 8,16,32")
    parser.add_argument(
        "--resolution",
        type=int,
        default=128,
        help="times to choose from, about; all where T is not larger. Costs as many network calls a batch",
    )
    parser.add_argument("--num_examples", type=int, default=256, help="examples to plan on, and to judge on")
    parser.add_argument(
        "--split", type=Literal["train", "validation", "test"], default="validation", help="plan on this part"
    )
    parser.add_argument("--batch_size", type=int, default=32, help="examples a network call")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--table", type=str | None, help="write s, t, the term and its error to this .csv")
    parser.add_argument("--plot", type=str | None, help="draw bounds and times into this picture")
    parser.add_argument("--overwrite", action="store_true", help="replace a --table or --plot that exists")
    parser.add_subclass_arguments(
        DataSource, "data", required=False, help="data to use instead of the run's own"
    )
    config = parser.parse_args(argv)
    wanted = steps_of(config.steps)
    check_numbers(**{f"--{name}": config[name] for name in ("resolution", "num_examples", "batch_size")})
    if config.num_examples < 2:
        raise ConfigError("--num_examples is 1: give 2 or more, as one alone cannot tell a gain from chance")
    check_new(config.table, "--table", ".csv", config.overwrite)
    check_new(config.plot, "--plot", (".png", ".pdf", ".svg"), config.overwrite)
    model, home = load_generator(config.run)
    check_steps(wanted, model.process.num_steps, config.resolution)
    folder = RunFolder(config.run).require_model()
    check_writable(folder / "config.json", "the plan, which is saved in")
    given = parser.instantiate(config).data
    data = load_data(home / "config.yaml") if given is None else given.read_in(codec_of(model))
    check_same_data(model, data)
    found, verdict = _planned(model, data, wanted, config)
    if config.table:
        write_table(found, Path(config.table))
    if config.plot:
        plot(found, verdict, Path(config.plot))
    worse = verdict.worse()
    good = {steps: times for steps, times in verdict.plans.items() if steps not in worse}
    replaced = save_plans(folder, good) if good else []
    print(as_json(verdict) if config.json else lines(verdict, unit(data.codec), config.run, replaced))
    if worse:
        named = ", ".join(f"{steps} steps (worse than {' and '.join(of)})" for steps, of in worse.items())
        raise ConfigError(
            f"--num_examples is {config.num_examples}: a plan on so few fails on the {verdict.judged_on} split at "
            f"{named} and is not saved: give more{'' if config.split == 'train' else ', or plan on --split train'}"
        )
    return 0


def steps_of(text: str) -> list[int]:
    """Numbers of steps, rising, each once.

    >>> steps_of("16"), steps_of("[32, 8,16,8]")
    ([16], [8, 16, 32])

    Raises:
        ConfigError: If one is no number of steps.
    """
    named = [part.strip() for part in text.strip("[] ").split(",")]
    for part in named:
        if not (part.isascii() and part.isdecimal()) or int(part) < 1:
            raise ConfigError(
                f"--steps is {text}: give a whole number of at least 1, or a list such as 8,16,32"
            )
    return sorted({int(part) for part in named})


def check_steps(steps: list[int], num_steps: int, resolution: int) -> None:
    """Refuse more steps than there are times to choose from.

    Raises:
        ConfigError: Names the number and the remedy.
    """
    most = steps[-1]
    if most > num_steps:
        raise ConfigError(f"--steps is {most}: this model has T={num_steps}, choose 1 .. {num_steps}")
    if resolution < num_steps and most >= resolution:
        raise ConfigError(
            f"--steps is {most}, but only --resolution {resolution} times are there to choose from: raise it above "
            f"{most}, or take fewer steps"
        )


def _planned(
    model: DiffusionModel, data: DataSource, steps: list[int], config: Any
) -> tuple[PairTerms, Verdict]:
    """Plan on one split, and judge on another one with other noise."""
    numbers = {name: config[name] for name in ("num_examples", "batch_size")} | {"progress": True}
    num_steps = model.process.num_steps
    times = candidate_times(num_steps, config.resolution, steps)
    found = measure_pairs(model, data.split(config.split), times, seed=config.seed, **numbers)
    plans = found.best(steps)
    grids = {
        each: {"optimal": plans[each]} | {name: grid(num_steps, each) for name, grid in RIVALS.items()}
        for each in steps
    }
    judged_on = "validation" if config.split == "test" else "test"
    every = [grid for named in grids.values() for grid in named.values()]
    bounds = judge_grids(model, data.split(judged_on), every, seed=config.seed + 1, **numbers)
    return found, Verdict(config.split, judged_on, len(times), grids, bounds)


def save_plans(folder: Path, plans: dict[int, list[int]]) -> list[int]:
    """Add plans to the ``config.json`` of a model, whole or not at all; which numbers of steps had one before."""
    file, aside = folder / "config.json", folder / "config.json.new"
    settings = json.loads(file.read_text())
    old = settings.get("plans") or {}
    settings["plans"] = old | {str(steps): times for steps, times in plans.items()}
    try:
        with aside.open("w") as handle:
            handle.write(json.dumps(settings, indent=2, sort_keys=True) + "\n")
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(aside, file)
        reseal(folder, file.name)
    finally:
        aside.unlink(missing_ok=True)
    return [steps for steps in plans if str(steps) in old]

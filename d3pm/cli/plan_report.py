"""What planned steps are worth beside the usual grids: as lines, as JSON, as a table and as curves."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from d3pm.evaluation.grid_bounds import GridBounds
from d3pm.evaluation.pair_terms import PairTerms
from d3pm.evaluation.report import plus_minus
from d3pm.evaluation.step_plan import best_sums

OVER = ("uniform", "cosine")
"""Grids whose difference from the plan is told with its error."""
SURE = 2
"""Standard errors that a gain has to have."""


@dataclass(frozen=True)
class Verdict:
    """The plans, and what they and their rivals cost on examples that they were not made on.

    Attributes:
        planned_on: Split the plans were made on.
        judged_on: Split they are judged on.
        num_times: Times there were to choose from, 0 among them.
        grids: Number of steps to name to times; ``optimal`` is the plan.
        bounds: Of all grids, in their order.
    """

    planned_on: str
    judged_on: str
    num_times: int
    grids: dict[int, dict[str, list[int]]]
    bounds: GridBounds

    @property
    def plans(self) -> dict[int, list[int]]:
        """Number of steps to the best times."""
        return {steps: named["optimal"] for steps, named in self.grids.items()}

    def worse(self) -> dict[int, list[str]]:
        """Number of steps to the grids that need no plan and are surely better than it."""
        found: dict[int, list[str]] = {}
        for steps, place in self.places().items():
            for name in OVER:
                saved, error = self.bounds.gain(place["optimal"], place[name])
                if saved == -math.inf or saved < -SURE * error:
                    found.setdefault(steps, []).append(name)
        return found

    def places(self) -> dict[int, dict[str, int]]:
        """Number of steps to name to the place among ``bounds``."""
        order = iter(range(len(self.bounds.nats)))
        return {steps: {name: next(order) for name in named} for steps, named in self.grids.items()}


def lines(verdict: Verdict, unit: str, run: str, replaced: list[int]) -> str:
    """The bound of each grid by number of steps, the times of the plans, and what to do with them."""
    names = list(next(iter(verdict.grids.values())))
    head = "".join(f"{name:>11}" for name in names) + "".join(f"{f'saves on {name}':>22}" for name in OVER)
    rows = [f"  steps{head}"]
    for steps, place in verdict.places().items():
        bits = "".join(f"{verdict.bounds.bits(place[name])[0]:11.4f}" for name in names)
        gains = (verdict.bounds.gain(place["optimal"], place[name]) for name in OVER)
        rows.append(f"{steps:7d}{bits}" + "".join(f"{plus_minus(*gain).strip():>22}" for gain in gains))
    return "\n".join(
        [
            f"bound in bits/{unit} on {verdict.bounds.nats.shape[1]} examples of the {verdict.judged_on} split; "
            f"planned on the {verdict.planned_on} split, out of {verdict.num_times} times:",
            *rows,
            "",
            *(f"{steps} steps: {' '.join(map(str, times))}" for steps, times in verdict.plans.items()),
            "",
            *_doubts(verdict),
            *_saved(verdict, run, replaced),
        ]
    )


def _doubts(verdict: Verdict) -> list[str]:
    """Which plans are worse than a grid that needs no plan, or no better as far as one can tell."""
    doubtful: dict[str, list[str]] = {}
    worse = verdict.worse()
    lost: dict[str, list[str]] = {}
    for steps, place in verdict.places().items():
        for name in OVER:
            saved, error = verdict.bounds.gain(place["optimal"], place[name])
            if name in worse.get(steps, []):
                lost.setdefault(name, []).append(str(steps))
            elif not saved > SURE * error:
                doubtful.setdefault(name, []).append(str(steps))
    return [
        *(f"worse than {name} at {', '.join(steps)} steps: not saved" for name, steps in lost.items()),
        *(
            f"no sure gain over {name} at {', '.join(steps)} steps: if there is one, more --num-examples will find it"
            for name, steps in doubtful.items()
        ),
    ]


def _saved(verdict: Verdict, run: str, replaced: list[int]) -> list[str]:
    """What becomes of the plans that are not worse, if there are any."""
    good = verdict.plans.keys() - verdict.worse().keys()
    if not good:
        return []
    return [
        f"saved with the model{_instead(replaced)}; `d3pm sample {run} --steps {max(good)} --grid optimal` takes them"
    ]


def _instead(replaced: list[int]) -> str:
    return f", in place of an older plan of {', '.join(map(str, replaced))} steps" if replaced else ""


def as_json(verdict: Verdict) -> str:
    """All of it as one JSON object; an infinite bound, and an error there is none of, are null."""
    worse = verdict.worse()
    plans = [
        {
            "steps": steps,
            "times": verdict.grids[steps]["optimal"],
            "bits_per_dim": {name: _number(verdict.bounds.bits(at)[0]) for name, at in place.items()},
            "standard_error": {name: _number(verdict.bounds.bits(at)[1]) for name, at in place.items()},
            "saved": steps not in worse,
            "saves": {name: _pair(verdict.bounds.gain(place["optimal"], place[name])) for name in OVER},
        }
        for steps, place in verdict.places().items()
    ]
    return json.dumps(
        {
            "planned_on": verdict.planned_on,
            "judged_on": verdict.judged_on,
            "num_examples": verdict.bounds.nats.shape[1],
            "num_times": verdict.num_times,
            "plans": plans,
        }
    )


def _pair(gain: tuple[float, float]) -> dict[str, float | None]:
    return {"bits_per_dim": _number(gain[0]), "standard_error": _number(gain[1])}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_table(found: PairTerms, file: Path) -> None:
    """One line a pair: s, t, the term in bits per entry and its standard error."""
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, ["s", "t", "bits_per_dim", "error"])
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in found.rows())


def plot(found: PairTerms, verdict: Verdict, file: Path) -> None:
    """Draw what the best grid of every number of steps costs, the judged bounds, and where the planned times lie."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    bounds, times = figure.subplots(1, 2)
    _draw_bounds(bounds, found, verdict)
    for steps, grid in verdict.plans.items():
        times.plot([i / steps for i in range(steps + 1)], grid, marker=".", label=f"{steps} steps")
    times.set(title="planned times", xlabel="share of the steps taken", ylabel="t")
    times.legend()
    figure.savefig(file, dpi=150)


def _draw_bounds(axes: Any, found: PairTerms, verdict: Verdict) -> None:
    best = [found.prior + terms for terms in best_sums(found.terms, found.times)]
    axes.plot(range(1, len(best) + 1), best, color="0.7", label=f"optimal, {verdict.planned_on} split")
    places = verdict.places()
    for name in next(iter(verdict.grids.values())):
        bits = [verdict.bounds.bits(place[name])[0] for place in places.values()]
        axes.plot(list(places), bits, marker="o", linestyle="", label=name)
    axes.set(title=f"bound ({verdict.judged_on} split)", xlabel="steps", ylabel="bits/dim", xscale="log")
    axes.legend()

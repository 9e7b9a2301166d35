"""Quality by the number of network calls, as a table and as curves."""

import csv
import math
from pathlib import Path

from d3pm.cli.report import numbers_of
from d3pm.evaluation import QualityCurve

ACROSS = 4
"""Panels in a row."""
WIDE = 20
"""Numbers that differ by more than this factor are drawn on a logarithmic axis."""


def write_table(drawn: QualityCurve, file: Path) -> None:
    """One line for each number of steps: cost, then quality; then one for each kind that is compared with."""
    rows = [{"samples": "samples", **row} for row in drawn.rows()]
    rows += [{"samples": name, **numbers} for name, numbers in drawn.references.items()]
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0].keys(), extrasaction="ignore")
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def plot(drawn: QualityCurve, file: Path) -> None:
    """Draw every number over the network calls a sample, and what it stands beside as lines."""
    from matplotlib.figure import Figure

    names = {name: key for name, key in numbers_of(drawn).items() if _told(drawn, key)}
    down = math.ceil(len(names) / ACROSS)
    across = min(len(names), ACROSS)
    figure = Figure(figsize=(3.2 * across, 2.6 * down), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    rows = sorted(drawn.rows(), key=lambda row: row["calls"])
    for panel, (name, key) in zip(axes, names.items(), strict=False):
        panel.plot([row["calls"] for row in rows], [row[key] for row in rows], "o-", label="samples")
        for style, (which, numbers) in zip((":", "--"), drawn.references.items(), strict=False):
            panel.axhline(numbers[key], linestyle=style, color="grey", label=which)
        panel.set(title=name.strip(), xlabel="network calls a sample", xscale="log")
        panel.set_xticks([row["calls"] for row in rows], [f"{row['calls']:.3g}" for row in rows], minor=False)
        panel.minorticks_off()
        shown = [row[key] for row in (*rows, *drawn.references.values())]
        if min(shown) > 0 and max(shown) > WIDE * min(shown):
            panel.set_yscale("log")
    axes[0].legend()
    for spare in axes[len(names) :]:
        spare.set_visible(False)
    figure.savefig(file, dpi=150)


def _told(drawn: QualityCurve, key: str) -> bool:
    """Whether there is a number at all, as there is none of the edits of unknown words if all are known."""
    return any(math.isfinite(row[key]) for row in drawn.rows())


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)

"""The bound by time as a table and as curves: where the bits go, and what they buy."""

import csv
from pathlib import Path

from d3pm.evaluation import ByTime


def write_table(found: ByTime, file: Path) -> None:
    """One line a time: t, its term, what has been sent by then, and the distortion where there is one."""
    rows = list(found.rows())
    with file.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0].keys())
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)


def plot(found: ByTime, file: Path) -> None:
    """Draw the terms over t and, for pictures, the distortion over t and over the rate."""
    from matplotlib.figure import Figure

    panels = 1 if found.rmse is None else 3
    figure = Figure(figsize=(4.2 * panels, 3.6), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    t = range(1, len(found.terms) + 1)
    axes[0].plot(t, found.terms)
    axes[0].set(title="terms of the bound", xlabel="t", ylabel="bits/dim", yscale="log")
    if found.rmse is not None:
        axes[1].plot(t, found.rmse)
        axes[1].set(title="distortion", xlabel="t", ylabel="RMSE (0–255)", ylim=(0, None))
        axes[2].plot(found.rate, found.rmse)
        axes[2].set(title="rate–distortion", xlabel="rate (bits/dim)", ylabel="RMSE (0–255)", ylim=(0, None))
    figure.savefig(file, dpi=150)

"""``d3pm schedule cosine --num-steps 1000``: look at a noise schedule before training with it."""

import inspect
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

import d3pm.schedules
from d3pm.cli.forward import plot, prior_bits
from d3pm.cli.parser import Parser, did_you_mean
from d3pm.cli.targets import check_kind
from d3pm.data import ImageData
from d3pm.errors import ConfigError
from d3pm.evaluation import evenly
from d3pm.schedules import Schedule, betas_from
from d3pm.specs import find_class

NEGLIGIBLE = 1e-3
"""Bits a dimension that a prior may differ by from what training ends in."""

SHOWN = 10
"""Times in the table, besides 0."""

DESCRIPTION = """Print how a schedule destroys data, and whether nothing is left of it in the end: the divergence of
q(x_T|x_0) from the standard normal prior of Gaussian diffusion, which the bound pays as L_T.

SCHEDULE is one of d3pm/schedules, such as linear or cosine, or a class path, such as mine.MySchedule.
`d3pm schedule SCHEDULE --help` lists its own options too: the arguments of its constructor."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    kind = find_schedule(argv[0]) if argv and not argv[0].startswith("-") else None
    parser = Parser(prog="d3pm schedule", description=DESCRIPTION)
    parser.add_argument("schedule", metavar="SCHEDULE", help="one of d3pm/schedules, or class path")
    parser.add_argument("--num_steps", type=int, default=1000, help="T")
    parser.add_argument(
        "--source", type=str, default="digits", help="pictures, as d3pm.data.ImageData names them"
    )
    parser.add_argument(
        "--plot",
        type=str | None,
        help="draw it and its forward process, beside linear and cosine, in this picture",
    )
    names = [] if kind is None else parser.add_class_arguments(kind)
    config = parser.instantiate(parser.parse_args(argv))
    check_kind(config.plot, "--plot", (".png", ".pdf", ".svg"))
    schedule = (kind or find_schedule(config.schedule))(**{name: config[name] for name in names})
    pictures = some_pictures(config.source)
    print(describe(schedule, config.num_steps, pictures, config.source))
    if config.plot:
        plot(schedule, config.num_steps, ImageData(config.source).codec, pictures, Path(config.plot))
        print(f"\ndrawn in {config.plot}")
    return 0


def schedules() -> dict[str, type[Schedule]]:
    """Those of the package by short names: ``UnsquaredCosineSchedule`` is ``unsquared_cosine``."""
    return {
        re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.removesuffix("Schedule")).lower(): value
        for name, value in vars(d3pm.schedules).items()
        if _is_schedule(value)
    }


def find_schedule(name: str) -> type[Schedule]:
    """The class that ``name`` means.

    Raises:
        ConfigError: If it is neither a schedule of the package nor the path of one.
    """
    known = schedules()
    if name.replace("-", "_") in known:
        return known[name.replace("-", "_")]
    with suppress(ConfigError):
        found = find_class(name)
        if _is_schedule(found):
            return found
    raise ConfigError(
        f"there is no schedule {name}{did_you_mean(name, known)} (schedules: {', '.join(known)})"
    )


def _is_schedule(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Schedule) and not inspect.isabstract(value)


def some_pictures(source: str, num: int = 256) -> Tensor:
    """Pictures (num, C, H, W) of the training split, evenly spread over it."""
    rows = evenly(ImageData(source).split("train"), num)
    return torch.stack([rows[i]["x0"] for i in range(len(rows))])


def describe(schedule: Schedule, num_steps: int, pictures: Tensor, source: str) -> str:
    """The schedule in numbers, and the check of its end."""
    alpha_bars = schedule.alpha_bars(num_steps)
    return "\n\n".join(
        [
            f"{schedule}, T = {num_steps}",
            _table(alpha_bars),
            _clipped(schedule, num_steps),
            _end(float(alpha_bars[-1]), float(pictures.double().square().mean()), source),
        ]
    )


def _table(alpha_bars: Tensor) -> str:
    """Noise at a few times: what survives, its ratio to the noise, and what one step takes away."""
    last = len(alpha_bars) - 1
    times = torch.linspace(0, last, min(last, SHOWN) + 1).round().long().tolist()
    lines = ["   t   alpha_bar        SNR    log SNR       beta"]
    for t in [1, *times[1:]] if times[1] > 1 else times[1:]:
        alpha_bar = float(alpha_bars[t])
        snr = alpha_bar / (1 - alpha_bar) if alpha_bar < 1 else math.inf
        log_snr = math.log(snr) if snr > 0 else -math.inf
        beta = 1 - alpha_bar / float(alpha_bars[t - 1]) if alpha_bars[t - 1] > 0 else 1.0
        lines.append(f"{t:4d}  {alpha_bar:10.4g} {snr:10.4g} {log_snr:10.3f} {beta:10.4g}")
    return "\n".join(lines)


def _clipped(schedule: Schedule, num_steps: int) -> str:
    """Which steps ``max_beta`` keeps from taking more."""
    u = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    steps = (betas_from(schedule.alpha_bar(u).double()) > schedule.max_beta).nonzero().flatten() + 1
    if not len(steps):
        return "no beta is clipped"
    first, last = int(steps[0]), int(steps[-1])
    return f"{len(steps)} beta clipped to {schedule.max_beta:g}, at t = {first}{f' … {last}' if last > first else ''}"


def _end(alpha_bar: float, mean_square: float, source: str) -> str:
    """What the prior costs, and whether that is nothing."""
    worst, usual = (float(prior_bits(torch.tensor(alpha_bar), square)) for square in (1.0, mean_square))
    verdict = (
        "≈ 0: sampling starts where training ends"
        if worst < NEGLIGIBLE
        else f"NOT ≈ 0 (above {NEGLIGIBLE:g}): samples start from other noise than training ends in; take more "
        "steps, or a schedule that destroys more"
    )
    return "\n".join(
        [
            f"alpha_bar_T = {alpha_bar:.4g}",
            "KL(q(x_T|x_0) || N(0, I)):",
            f"  x_0 = ±1                             {worst:10.3e} bits/dim",
            f"  mean square {mean_square:.3f} ({source})".ljust(39) + f"{usual:10.3e} bits/dim",
            f"  {verdict}",
        ]
    )

"""Walks through latent space: what a deterministic sampler makes of the arc between two latents."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from d3pm.cli.forms import Draw
from d3pm.cli.noise import need_gaussian
from d3pm.parallel import ALONE
from d3pm.sampling import Samples

FRAMES = 24
"""Points on the way from one latent to the other, both ends included."""


def walk(draw: Draw, num: int, frames: int = FRAMES) -> Iterator[Samples]:
    """``num`` walks side by side: yields the samples at each of ``frames`` points that is this process's.

    Each walk keeps its class, and its noise if the sampler adds any, so a sample is a smooth function of the
    point. DDIM takes the steps where the options name no sampler.

    Raises:
        ConfigError: (At the first point) if the latents are states, between which there is nothing.
    """
    need_gaussian(draw.model.process, "--walk", "drop it, or show how samples come about with --strip")
    from d3pm.gaussian.ddim import DDIM, slerp

    model = draw.model
    if "sampler" not in draw.options:
        draw = draw.by(DDIM())
    generator = torch.Generator().manual_seed(draw.options["seed"])
    a, b = (model.process.prior((num, *model.shape)).sample(generator) for _ in range(2))
    alone = replace(draw, team=ALONE)
    for share in torch.linspace(0, 1, frames, dtype=torch.float64)[draw.team.rank :: draw.team.size]:
        yield alone.samples(num, x_T=slerp(a, b, share.expand(num)))

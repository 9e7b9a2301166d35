"""Samples in continuous time: by the reverse-time equation of the process, or by its probability flow."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from d3pm.calls import Calls
from d3pm.cli.forms import Draw
from d3pm.cli.noise import need_gaussian
from d3pm.errors import ConfigError
from d3pm.objectives import Network
from d3pm.parallel import dealt
from d3pm.sampling import Samples

Method = Literal["euler", "pc", "ode"]

SPAN = 0.995
"""How much of a schedule is gone through that ends without any signal, where the noise comes infinitely fast."""

LEAST = 1e-9
"""What counts as a signal."""


@dataclass(kw_only=True)
class ContinuousDraw(Draw):
    """Draws by a solver of the variance-preserving equation that the process discretizes.

    Attributes:
        method: ``euler`` (Euler–Maruyama), ``pc`` (each such step followed by one of Langevin), or ``ode`` (the
            probability flow, whose solver takes as many steps as it needs).
    """

    method: Method

    @property
    def counted(self) -> int | None:
        """See the base class."""
        return None if self.method == "ode" else self.steps

    def batches(self, num: int, *, watch: Any = None, **more: Any) -> Iterator[Samples]:
        """See the base class; ``x_T`` is where to start."""
        if watch is not None:
            raise ConfigError(
                f"--strip shows steps of the process, which --sde {self.method} does not take: drop one"
            )
        size, seed = self.options["batch_size"], self.options["seed"]
        for n, mine in dealt(num, size, more | self.classes(num), seed=seed, team=self.team):
            x_1, generator = mine.pop("x_T", None), mine.pop("generator")
            calls = Calls(self.network, self.model.process, n, mine, cache=False)
            x = self._batch(n, calls, x_1, generator)
            yield Samples(x, calls.counts, calls.forwards)

    def _batch(self, num: int, network: Network, x_1: Tensor | None, generator: torch.Generator) -> Tensor:
        """Samples (num, \\*) that share the solver's steps."""
        from d3pm.gaussian.euler_maruyama import euler_maruyama
        from d3pm.gaussian.ode import ode_sample
        from d3pm.gaussian.predictor_corrector import predictor_corrector
        from d3pm.gaussian.score import score_of
        from d3pm.gaussian.sde import VPSDE

        process: Any = self.model.process
        left = float(process.schedule.alpha_bar(torch.ones(1)))
        sde = VPSDE(process.schedule, span=1.0 if left > LEAST else SPAN)
        first = getattr(self.model.objective, "first", 1.0)  # the least time it has been told
        bounded = process.threshold is not None
        score = score_of(process, network, sde, first=first, threshold=bounded)
        solvers: dict[Method, Any] = {
            "euler": partial(euler_maruyama, steps=self.steps),
            "pc": partial(predictor_corrector, steps=self.steps, snr=0.01),
            "ode": ode_sample,
        }
        shape, device = (num, *self.model.shape), self.model.device
        return solvers[self.method](sde, score, shape, x_1=x_1, generator=generator, device=device)


def continuous(draw: Draw, config: Any) -> ContinuousDraw:
    """The same draw by the solver that ``--sde`` names.

    Raises:
        ConfigError: If the process has no such equation, or an option is about steps that are not taken.
    """
    need_gaussian(draw.model.process, f"--sde {config.sde}", "drop it")
    for option, idle in (("sampler", config.sampler is None), ("grid", config.grid == "uniform")):
        if not idle:
            raise ConfigError(f"--sde and --{option} both say how steps are taken: give one of them")
    if config.sde == "ode" and config.steps is not None:
        raise ConfigError(f"--steps is {config.steps}, but --sde ode takes as many as it needs: leave it out")
    if isinstance(config.steps, list):
        raise ConfigError("--steps is a list of times, but --sde takes even steps: give their number")
    plain = draw.through_network()
    made = (plain.model, plain.network, plain.options, plain.labels)
    return ContinuousDraw(*made, team=plain.team, method=config.sde)

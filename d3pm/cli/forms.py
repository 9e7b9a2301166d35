"""What samples are to people: texts, pictures, rows of a table. The codec decides, not the process."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from d3pm.cli.model import codec_of
from d3pm.errors import ConfigError
from d3pm.model import DiffusionModel
from d3pm.objectives import Network
from d3pm.parallel import ALONE, Team
from d3pm.process import Process
from d3pm.sampling import Ancestral, Sampler, Samples


@dataclass
class Draw:
    """Draws samples as the options say.

    Attributes:
        model: What is drawn from.
        network: Its network, or a guide around it.
        options: Of :meth:`~d3pm.model.DiffusionModel.batches`.
        labels: The classes to draw, in turn; empty where there are none.
        sharp: How beliefs are sharpened, last of all: arguments of :class:`~d3pm.discrete.truncation.Truncated`.
        team: The processes that share the batches.
    """

    model: DiffusionModel
    network: Network
    options: dict[str, Any]
    labels: list[int]
    sharp: dict[str, Any] = field(default_factory=dict)
    team: Team = ALONE

    def __call__(self, num: int, **more: Any) -> Tensor:
        """``num`` samples (num, \\*); ``more`` takes the place of the options."""
        return self.samples(num, **more).x0

    def samples(self, num: int, **more: Any) -> Samples:
        """The same with what they cost: all of them, in every process."""
        return Samples.cat(self.team.joined(self.batches(num, **more)))

    def batches(self, num: int, **more: Any) -> Iterator[Samples]:
        """The same, batch by batch: those that are this process's."""
        watched = more.get("watch") is not None
        options: dict[str, Any] = {"progress": self.team.first and not watched and sys.stderr.isatty()}
        options |= {"team": self.team} | self.options | self.classes(num) | more
        return self.model.batches(num, **options | {"network": self.sharpened(more.get("network"))})

    @classmethod
    def freely(cls, model: DiffusionModel, steps: int) -> "Draw":
        """Ancestral samples of every class, unguided."""
        num_classes = getattr(model.network, "num_classes", None)
        return cls(model, model.network, {"steps": steps, "seed": 0}, list(range(num_classes or 0)))

    @property
    def steps(self) -> int:
        """How many steps are taken."""
        steps = self.options.get("steps")
        if isinstance(steps, list):
            return len(steps) - 1
        return steps or self.options.get("sampler", Ancestral()).default_steps(self.model.process)

    @property
    def counted(self) -> int | None:
        """The same as far as it says what was done: None where each sample takes as many calls as it needs."""
        process = self.model.process
        return None if takes_its_own(self.options.get("sampler", Ancestral()), process) else self.steps

    def by(self, sampler: Sampler) -> "Draw":
        """The same samples' law by another sampler."""
        return replace(self, options=self.options | {"sampler": sampler})

    def through_network(self) -> "Draw":
        """The same with all guidance in the network, for whoever asks it without a sampler."""
        return self

    def sharpened(self, network: Network | None = None) -> Network:
        """Its network, or one that takes its place, with the belief sharpened."""
        network = network or self.network
        if not self.sharp:
            return network
        from d3pm.discrete.truncation import Truncated

        return Truncated(self.model.process, network, **self.sharp)

    def classes(self, num: int) -> dict[str, Tensor]:
        """The class of each sample, (num,), if there are classes."""
        if not self.labels:
            return {}
        turns = torch.tensor(self.labels, device=self.model.device)
        return {"labels": turns[torch.arange(num, device=turns.device) % len(turns)]}


def takes_its_own(sampler: Sampler, process: Process) -> bool:
    """Whether a sampler makes as many network calls as it needs, in one step as well as in many."""
    return sampler.default_steps(process) == 1 < process.num_steps


class Form(ABC):
    """One kind of sample, and what can be done with it.

    Attributes:
        few: How many make a first impression.
        name: What such samples are called.
        more: Options of ``d3pm sample`` to try next.
        options: Those of ``d3pm sample`` that only it has.
    """

    few: ClassVar[int]
    name: ClassVar[str]
    more: ClassVar[str]
    options: ClassVar[tuple[str, ...]]

    @abstractmethod
    def check(self, config: Any) -> None:
        """Refuse (ConfigError) what cannot be written, before anything is drawn."""

    @abstractmethod
    def present(self, draw: Draw, config: Any, home: Path) -> None:
        """Draw, and show what was drawn or write it; ``home`` is the run's folder."""

    def batch_size(self, model: DiffusionModel) -> int:
        """How many samples at a time, if nobody says."""
        return 64

    @abstractmethod
    def keep(self, items: list[Any], folder: Path) -> str:
        """Keep decoded samples in a run's folder if they need a file; a few lines that show or name them."""


def form_of(model: DiffusionModel) -> Form:
    """The form of what the model's codec gives: a draw from the prior will tell as well as a sample."""
    from d3pm.cli.frames import Tables
    from d3pm.cli.gallery import Pictures
    from d3pm.cli.texts import Texts

    noise = model.process.prior((1, *model.shape)).sample(torch.Generator().manual_seed(0))
    (item,) = codec_of(model).decode(noise)
    if isinstance(item, dict):
        return Tables()
    return Texts() if isinstance(item, str) else Pictures()


def refuse_foreign(form: Form, config: Any, defaults: Any) -> None:
    """Refuse options of another form than this model's.

    Raises:
        ConfigError: Names the first of them that was given.
    """
    for other in Form.__subclasses__():
        for option in other.options:
            if option not in form.options and config[option] != defaults[option]:
                raise ConfigError(
                    f"--{option} is for {other.name}, but this model draws {form.name}: leave it out"
                )

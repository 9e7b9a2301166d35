"""What a visitor asks for, and the drawing of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from d3pm.demo.trajectory import Trajectory, follow
from d3pm.errors import ConfigError
from d3pm.guidance import ClassifierFreeGuidance, check_guidable
from d3pm.model import DiffusionModel
from d3pm.objectives import Network
from d3pm.sampling import Sampler

Reader = Callable[[DiffusionModel, str], tuple[Tensor, Tensor]]
"""The symbols of a prompt, and which of them are given: int64 and bool, (n,) each."""

IN_TURN, ANY = "each in turn", "any"
"""Labels that are no class: all classes one after the other, and none in particular."""


@dataclass(frozen=True)
class Wish:
    """The fields of the page.

    Attributes:
        sampler: Takes the steps.
        steps: How many.
        seed: Equal seeds give equal samples.
        num: How many samples.
        prompt: Text to keep, with blanks; empty for none.
        temperature: Below 1: likelier symbols.
        label: A class, :data:`IN_TURN` or :data:`ANY`; None for models without classes.
        guidance: Classifier-free; 1 is the class itself.
        prompt_guidance: Towards the prompt; 1 is plain infilling.

    Raises:
        ConfigError: If a number that must be there is missing, or is not whole.
    """

    sampler: Sampler
    steps: int
    seed: int = 0
    num: int = 1
    prompt: str = ""
    temperature: float = 1.0
    label: str | int | None = None
    guidance: float = 1.0
    prompt_guidance: float = 1.0

    def __post_init__(self) -> None:
        for name in ("steps", "seed", "num"):
            value = getattr(self, name)
            if value is None or int(value) != value:
                raise ConfigError(f"{name} is {'empty' if value is None else value}: give a whole number")
            object.__setattr__(self, name, int(value))  # a page knows floats only
        if not 0 <= self.seed < 1 << 63:
            raise ConfigError(f"seed is {self.seed}: give one of 0 … 2^63 - 1")


def fulfil(
    model: DiffusionModel, wish: Wish, read: Reader, progress: Callable[[float], None] | None = None
) -> Trajectory:
    """Draw what is wished for.

    Raises:
        D3PMError: One line on what cannot be: a symbol of the prompt, its length, the number of steps, …
    """
    given = _given(model, wish, read)
    return follow(
        model,
        wish.num,
        steps=wish.steps,
        seed=wish.seed,
        sampler=wish.sampler,
        network=_network(model, wish, given.get("known")),
        progress=progress,
        options=given | _labels(model, wish),
    )


def classes(model: DiffusionModel) -> int:
    """How many classes the network tells apart; 0 if it knows of none."""
    return getattr(model.network, "num_classes", None) or 0


def masks(model: DiffusionModel) -> bool:
    """Whether noise is masks, so that a prompt can be hidden from the network, and guided to."""
    transition = getattr(model.process, "transition", None)
    return getattr(transition, "masks_only", False)


def _given(model: DiffusionModel, wish: Wish, read: Reader) -> dict[str, Tensor]:
    """What the prompt keeps: ``known`` and ``x0``, (num, L); nothing without a prompt."""
    if not wish.prompt:
        return {}
    (length,) = model.shape
    x0, known = read(model, wish.prompt)
    if len(x0) > length:
        raise ConfigError(f"prompt has {len(x0)} symbols, but a sample has {length}: shorten it")
    given = {"x0": x0, "known": known}
    return {k: pad(v, (0, length - len(v))).expand(wish.num, -1) for k, v in given.items()}


def _labels(model: DiffusionModel, wish: Wish) -> dict[str, Tensor]:
    if wish.label is None or wish.label == ANY:
        return {}
    turns = torch.arange(wish.num) % classes(model)
    labels = turns if wish.label == IN_TURN else torch.full_like(turns, int(wish.label))
    return {"labels": labels.to(model.device)}


def _network(model: DiffusionModel, wish: Wish, known: Tensor | None) -> Network:
    """The model's network in the guides that change what it says, sharpened last."""
    network: Network = model.network
    if wish.guidance != 1:
        if wish.label is None or wish.label == ANY:
            raise ConfigError(
                f"guidance is {wish.guidance:g}, but there is no class to guide to: choose a label"
            )
        check_guidable(network)
        network = ClassifierFreeGuidance(network, wish.guidance, {"labels": None}, channels=model.shape[0])
    if wish.prompt_guidance != 1 and known is not None:
        from d3pm.discrete.prompt_guidance import PromptGuidance

        network = PromptGuidance(model.process, network, known[0], wish.prompt_guidance)
    if wish.temperature != 1:
        from d3pm.discrete.truncation import Truncated

        network = Truncated(model.process, network, wish.temperature)
    return network

"""Mask diffusion in small worlds, by enumeration: the law of a sampler that reveals entries in any order."""

import itertools
from collections.abc import Callable

import torch
from oracle import Chain, World, random_law
from torch import Tensor

from d3pm import AbsorbingTransition, DiscreteDiffusion

SAMPLES = 20_000

Policy = Callable[[Tensor, list[int]], list[tuple[float, tuple[int, ...]]]]
"""From the beliefs (L, K) in a word and its masked places to what is revealed next, and how likely that is."""


def make(
    num_states: int, length: int, num_steps: int, seed: int = 0, sparse: bool = False
) -> tuple[DiscreteDiffusion, World]:
    transition = AbsorbingTransition(num_states, num_steps)
    chain = Chain.of(transition)
    law = random_law(chain, length, seed, sparse) ** 2  # squared: entries that depend on each other more
    return DiscreteDiffusion(transition), World(chain, length, law / law.sum())


def exact(world: World) -> Tensor:
    """The exact belief as logits (S, L, K), the same at all times."""
    return world.exact_logits()[0]


def time_free(world: World, table: Tensor):
    """The table (S, L, K) as a network that does not look at the time; it remembers what it was asked."""

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        network.asked.append((x_t.clone(), t.clone()))
        return table[world.index(x_t)]

    network.time_conditioned, network.asked = False, []
    return network


def beliefs(world: World, table: Tensor) -> Tensor:
    """The table (S, L, K) as probabilities, without the mask."""
    states = torch.arange(world.chain.num_states)
    return table.masked_fill(states == world.chain.absorbing, -torch.inf).softmax(-1)


def followed(world: World, table: Tensor, policy: Policy) -> tuple[Tensor, Tensor]:
    """The law (S,) over words if masks are revealed as ``policy`` says, and the mean number of calls to each word."""
    mask, belief = world.chain.absorbing, beliefs(world, table)
    law, calls = torch.zeros(2, len(world.words), dtype=torch.float64)
    number = (world.words == mask).sum(-1)
    law[number.argmax()] = 1.0
    for index in number.argsort(descending=True).tolist():
        word = world.words[index].tolist()
        places = [i for i, x in enumerate(word) if x == mask]
        if not places or law[index] == 0:
            continue
        here, before = float(law[index]), float(calls[index]) / float(law[index])
        for weight, chosen in policy(belief[index], places):
            for states in itertools.product(world.chain.data_states, repeat=len(chosen)):
                after, chance = list(word), here * weight
                for place, state in zip(chosen, states, strict=True):
                    after[place], chance = state, chance * float(belief[index, place, state])
                target = world.index(torch.tensor([after]))
                law[target] += chance
                calls[target] += chance * (before + 1)
        law[index] = calls[index] = 0.0
    return law, torch.where(law > 0, calls / law, 0.0)


def one_at_random(belief: Tensor, places: list[int]) -> list[tuple[float, tuple[int, ...]]]:
    return [(1 / len(places), (place,)) for place in places]


def counts(world: World, x: Tensor) -> Tensor:
    """How often each word came out, (1, S)."""
    return torch.bincount(world.index(x), minlength=len(world.words))[None]


def total_variation(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum()) / 2


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)

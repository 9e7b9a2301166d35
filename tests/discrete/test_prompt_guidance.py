"""Guidance towards a prompt: its ends are plain laws, between and beyond them the belief is tilted exactly."""

import pytest
import torch
from oracle import Chain, World, chi_square, random_law

from d3pm import AbsorbingTransition, DiscreteDiffusion, TableDiffusion, UniformTransition
from d3pm.discrete.constraints import Constrained
from d3pm.discrete.prompt_guidance import PromptGuidance
from d3pm.discrete.truncation import Truncated
from d3pm.errors import ConfigError
from d3pm.sampling import draw

K, T = 5, 20
KERNEL = AbsorbingTransition(K, T)
PROCESS = DiscreteDiffusion(KERNEL)
WORLD = World(Chain.of(KERNEL), 3, random_law(Chain.of(KERNEL), 3, seed=1))
KNOWN = torch.tensor([True, False, False])


@pytest.fixture(scope="module")
def network():
    """The exact belief, which under this kernel is free of time."""
    table = WORLD.exact_logits()[0]

    def network(x_t, t):
        return table[WORLD.index(x_t)]

    network.time_conditioned = False
    return network


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompted(network, batch: int = 64, seed: int = 2, **options):
    x0 = torch.full((batch, 3), 2)
    return draw(
        PROCESS, network, (batch, 3), known=KNOWN.expand(batch, 3), x0=x0, generator=seeded(seed), **options
    )


def test_scale_one_is_infilling(network):
    plain, guided = prompted(network), prompted(PromptGuidance(PROCESS, network, KNOWN, 1.0))
    assert torch.equal(plain.x0, guided.x0)
    assert torch.equal(plain.calls, guided.calls)


def test_scale_zero_does_not_know_the_prompt(network):
    """The free entries are those of the same seed with another prompt."""
    guided = PromptGuidance(PROCESS, network, KNOWN, 0.0)
    one = prompted(guided).x0
    x0, known = torch.full((64, 3), 3), KNOWN.expand(64, 3)
    other = draw(PROCESS, guided, (64, 3), known=known, x0=x0, generator=seeded(2)).x0
    assert torch.equal(one[:, 1:], other[:, 1:])
    assert (one[:, 0] == 2).all()
    assert (other[:, 0] == 3).all()


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.5, 1.0, 3.0])
def test_the_logits_lie_on_the_line_through_both(network, scale):
    x_t, t = torch.tensor([[2, 4, 4], [2, 4, 1]]), torch.tensor([9, 9])
    without = torch.tensor([[4, 4, 4], [4, 4, 1]])
    u, c = network(without, t), network(x_t, t)
    found = PromptGuidance(PROCESS, network, KNOWN, scale)(x_t, t)
    torch.testing.assert_close(found, u + scale * (c - u), atol=1e-12, rtol=1e-12)


def test_one_free_entry_follows_the_tilted_law(network):
    """Two of three entries known: the law of the last is p(x | prompt)^s p(x)^(1-s), normalised."""
    scale, known = 2.5, torch.tensor([True, False, True])
    guided = PromptGuidance(PROCESS, network, known, scale)
    x0 = torch.tensor([2, 0, 1]).expand(20_000, 3)
    x = draw(
        PROCESS, guided, (20_000, 3), steps=3, known=known.expand(20_000, 3), x0=x0, generator=seeded(3)
    ).x0
    joint = WORLD.law.view(K, K, K)
    conditional, marginal = joint[2, :, 1] / joint[2, :, 1].sum(), joint.sum((0, 2))
    law = torch.where(conditional > 0, conditional**scale * marginal.clamp(min=1e-300) ** (1 - scale), 0.0)
    counts = torch.bincount(x[:, 1], minlength=K)
    assert chi_square(counts[None], (law / law.sum())[None]) > 1e-3


@pytest.mark.parametrize(("scale", "price"), [(0, 1), (1, 1), (2.0, 2)])
def test_costs_are_counted_and_time_is_passed_on(network, scale, price):
    guided = PromptGuidance(PROCESS, network, KNOWN, scale)
    assert (guided.calls, guided.time_conditioned) == (price, False)
    assert prompted(guided, steps=[T, 0]).calls.tolist() == [price] * 64


def test_what_is_kept_from_the_network_changes_no_sample(network):
    guided = PromptGuidance(PROCESS, network, KNOWN, 2.0)
    assert torch.equal(prompted(guided).x0, prompted(guided, cache=False).x0)


def test_prompts_may_differ_from_row_to_row(network):
    rows = torch.tensor([[True, False, False], [False, True, True]]).repeat(8, 1)
    x0 = torch.full((16, 3), 2)
    guided = PromptGuidance(PROCESS, network, rows, 2.0)
    options = {"known": rows, "x0": x0, "generator": seeded(4)}
    with pytest.raises(ConfigError, match="cache=False"):
        draw(PROCESS, guided, (16, 3), **options)
    x = draw(PROCESS, guided, (16, 3), **{**options, "generator": seeded(4)}, cache=False).x0
    assert (x[rows] == 2).all()
    alike = PromptGuidance(PROCESS, network, KNOWN.expand(64, 3), 2.0)
    assert torch.equal(prompted(alike).x0, prompted(PromptGuidance(PROCESS, network, KNOWN, 2.0)).x0)


@pytest.mark.parametrize(
    ("process", "known", "message"),
    [
        (DiscreteDiffusion(UniformTransition(K, T)), KNOWN, "the kernel is a UniformTransition"),
        (TableDiffusion.example()[0], KNOWN, "the kernel is a TableDiffusion"),
        (PROCESS, KNOWN.long(), "known is torch.int64"),
    ],
)
def test_others_are_refused_in_one_line(network, process, known, message):
    with pytest.raises(ConfigError, match=message) as error:
        PromptGuidance(process, network, known, 2.0)
    assert "\n" not in str(error.value)


def test_cuts_and_constraints_go_around_it(network):
    allowed = torch.tensor([[True] * 5, [True] * 5, [False, True, False, True, False]])
    guided = PromptGuidance(PROCESS, network, KNOWN, 2.0)
    x = prompted(Truncated(PROCESS, Constrained(PROCESS, guided, allowed), top_k=2)).x0
    assert allowed[torch.arange(3), x].all()
    for within in (Truncated(PROCESS, network), Constrained(PROCESS, network, allowed)):
        with pytest.raises(ConfigError, match="put it around PromptGuidance"):
            PromptGuidance(PROCESS, within, KNOWN, 2.0)


def test_a_prompt_of_another_length_is_refused(network):
    with pytest.raises(ConfigError, match=r"known has shape \(4,\)"):
        prompted(PromptGuidance(PROCESS, network, torch.ones(4, dtype=torch.bool), 2.0))

"""Rare tokens keep their rate: what single-precision Gumbel or exponential races lose, two-stage draws do not.

With a thousand steps a token is revealed in one of them with chance r = 1/1000; a race in float32 multiplies
a token of probability p by c/(e^c - 1), c = 2^-24/(r p): at Zipf's rank 25,000 nothing would be left.
"""

import pytest
import torch
from oracle import chi_square

import d3pm
from d3pm import AbsorbingTransition, DiscreteDiffusion, MarginalTransition
from d3pm.distributions import draw

VOCABULARY = 50_257


def zipf(num_symbols: int) -> torch.Tensor:
    weights = 1 / torch.arange(1, num_symbols + 1, dtype=torch.float64)
    return weights / weights.sum()


def check(drawn: torch.Tensor, law: torch.Tensor) -> None:
    """Chi-square over bins of equal expected count, and the mean rate of the rarest half of the vocabulary."""
    total, bins = drawn.numel(), 200
    place = (law.cumsum(0) * bins).long().clamp(max=bins - 1)
    probs = torch.zeros(bins, dtype=torch.float64).index_add(0, place, law)
    counts = torch.bincount(place[drawn.flatten()], minlength=bins)
    assert chi_square(counts[None], probs[None]) > 1e-3
    rare = len(law) // 2
    mass = float(law[rare:].sum())
    share = float((drawn >= rare).double().mean())
    assert share / mass == pytest.approx(1, abs=4 * ((1 - mass) / (mass * total)) ** 0.5)


def test_absorbing_samples_keep_the_law_of_a_large_vocabulary():
    """A network that always answers with the law itself: every sampled entry is an independent draw of it."""
    law = zipf(VOCABULARY - 1)
    process = DiscreteDiffusion(AbsorbingTransition(num_states=VOCABULARY, num_steps=1000))
    logits = torch.cat([law.log(), torch.zeros(1, dtype=torch.float64)]).float()

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return logits.expand(*x_t.shape, VOCABULARY)  # no memory of its own

    generator = torch.Generator().manual_seed(0)
    drawn = d3pm.sample(process, network, (6, 2000), generator=generator)
    check(drawn, law)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_draw_resolves_one_in_a_trillion(dtype):
    """The cumulative law is inverted in float64, whatever the belief's dtype, and zeros are never drawn."""
    probs = torch.tensor([0.0, 1.0, 0.0, 1e-12, 0.0], dtype=dtype)
    u = torch.tensor([0.0, 0.5, 1 - 2e-12, 1 - 5e-13, 1 - 2**-53], dtype=torch.float64)
    assert draw(probs.expand(5, -1), u).tolist() == [1, 1, 1, 3, 3]


def test_corruption_towards_frequencies_keeps_them():
    law = zipf(VOCABULARY)
    process = DiscreteDiffusion(MarginalTransition(law, num_steps=10))
    prior = process.prior((4, 50_000)).sample(torch.Generator().manual_seed(2))
    check(prior, law)
    x0 = torch.zeros(4, 50_000, dtype=torch.int64)
    t = torch.full((4,), 5)
    x_t = process.q_sample(x0, t, torch.Generator().manual_seed(3))
    kept = float(process.transition.between(torch.zeros_like(t), t).rows(x0[:, :1])[0, 0, 0])
    changed = x_t[x_t > 0]
    assert 1 - changed.numel() / x_t.numel() == pytest.approx(kept, abs=0.005)
    rest = law[1:] / law[1:].sum()
    check(changed - 1, rest)

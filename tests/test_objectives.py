"""The training losses: what they add up to, and what must not disturb them."""

import pytest
import torch

from d3pm import (
    AbsorbingTransition,
    DiscreteDiffusion,
    MarginalTransition,
    MatrixTransition,
    UniformTransition,
)
from d3pm.errors import ConfigError
from d3pm.objectives import (
    AuxiliaryBound,
    CrossEntropy,
    Hybrid,
    VariationalBound,
    stratified,
    vlb_estimate,
    vlb_terms,
)

K, T = 5, 9
KERNELS = [
    AbsorbingTransition(K, T),
    UniformTransition(K, T),
    MarginalTransition.example(K, T),
    MatrixTransition.example(K, T),
]


def network(x_t: torch.Tensor, t: torch.Tensor, **cond) -> torch.Tensor:
    """Fixed opinions in float32."""
    table = torch.randn(K, K, generator=torch.Generator().manual_seed(0))
    return table[x_t] * (1 + t.view(-1, 1, 1) / T).float()


@pytest.fixture(params=KERNELS, ids=lambda kernel: type(kernel).__name__)
def process(request):
    return DiscreteDiffusion(request.param)


@pytest.fixture
def x0():
    return torch.randint(K - 1, (64, 3), generator=torch.Generator().manual_seed(1))


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(2)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_stratified_times_fill_every_stratum_once(size):
    u = stratified(torch.zeros(size), seeded())
    assert sorted((u * size).long().tolist()) == list(range(size))


def test_the_auxiliary_bound_is_the_bound_plus_a_sum_of_cross_entropies(process, x0):
    bound, surprise, both = (
        objective(process, network, x0, generator=seeded())
        for objective in (VariationalBound(), CrossEntropy(), AuxiliaryBound(0.3))
    )
    assert torch.allclose(both, bound + 0.3 * T * surprise, rtol=1e-5)
    hybrid = Hybrid(VariationalBound(), CrossEntropy(), 0.3 * T)
    assert torch.allclose(both, hybrid(process, network, x0, generator=seeded()), rtol=1e-5)


def test_autocast_rounds_networks_and_never_probabilities(process, x0):
    losses, bounds = [], []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses.append(AuxiliaryBound()(process, network, x0, generator=seeded()))
            bounds.append(vlb_terms(process, network, x0, generator=seeded()).total)
    assert torch.equal(*losses)
    assert torch.equal(*bounds)


def test_the_estimate_has_the_mean_of_the_bound(process, x0):
    many = x0.repeat(150, 1)
    exact = vlb_terms(process, network, many, generator=seeded())
    estimate = vlb_estimate(process, network, many, num_times=3, generator=seeded())
    for found in (exact, estimate):
        assert found.prior.shape == found.reconstruction.shape == (len(many),)
    assert estimate.diffusion.shape == (len(many), 3)
    gap = estimate.total - exact.total
    assert abs(float(gap.mean())) < 4.5 * float(gap.std()) / len(many) ** 0.5


def test_an_estimate_with_every_time_is_the_bound(process, x0):
    exact = vlb_terms(process, network, x0, generator=seeded())
    assert torch.equal(vlb_estimate(process, network, x0, num_times=T, generator=seeded()).total, exact.total)
    with pytest.raises(ConfigError, match="num_times is 0"):
        vlb_estimate(process, network, x0, num_times=0)


def test_masked_entries_may_be_anything(process, x0):
    mask = torch.ones_like(x0)
    mask[:, 2] = 0
    other = x0.clone()
    other[:, 2] = (x0[:, 2] + 1) % (K - 1)
    losses = [
        VariationalBound()(process, network, x, generator=seeded(), attention_mask=mask) for x in (x0, other)
    ]
    assert torch.allclose(*losses)
    assert not torch.allclose(losses[0], VariationalBound()(process, network, x0, generator=seeded()))

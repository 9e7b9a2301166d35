"""DDIM on categories: the same marginals whatever the noise, and what it is at both ends."""

import pytest
import torch
from leaps import errors, refusal, run, slope, step, world_of
from oracle import chi_square

from d3pm import (
    AbsorbingTransition,
    DiscreteDiffusion,
    HybridTransition,
    MarginalTransition,
    UniformTransition,
)
from d3pm.discrete.ddim import CategoricalDDIM
from d3pm.errors import ConfigError
from d3pm.sampling import draw, sample
from d3pm.schedules import CosineSchedule, ReciprocalSchedule

ETAS = [0.0, 0.3, 1.0]


def kernels(num_steps: int) -> dict:
    return {
        "absorbing": AbsorbingTransition(3, num_steps),
        "uniform": UniformTransition(3, num_steps),
        "marginal": MarginalTransition([0.6, 0.3, 0.1], num_steps, ReciprocalSchedule()),
    }


@pytest.fixture(params=kernels(1))
def name(request) -> str:
    return request.param


@pytest.mark.parametrize("eta", ETAS)
@pytest.mark.parametrize(("s", "t"), [(0, 6), (3, 6), (2, 5), (1, 2), (0, 1)])
def test_the_marginals_of_x_s_given_x_0_stay(name, eta, s, t):
    """A network that knows x_0: averaged over q(x_t | x_0), the step gives q(x_s | x_0)."""
    kernel = kernels(6)[name]
    world = world_of(kernel, 1)
    for x0 in world.chain.data_states:
        logits = torch.full((6, 3, 1, 3), -1e30, dtype=torch.float64)
        logits[..., x0] = 0.0
        found = world.chain.between(0, t)[x0] @ step(
            world, DiscreteDiffusion(kernel), CategoricalDDIM(eta), logits, s, t
        )
        torch.testing.assert_close(found, world.chain.between(0, s)[x0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", ETAS)
def test_one_entry_has_the_law_of_the_data_at_any_number_of_steps(name, eta):
    kernel = kernels(6)[name]
    found = errors(world_of(kernel, 1), DiscreteDiffusion(kernel), CategoricalDDIM(eta), [1, 2, 3, 6])
    assert max(found) < 1e-12


@pytest.mark.parametrize("schedule", [ReciprocalSchedule(), CosineSchedule()])
def test_without_fresh_noise_it_is_ancestral_under_the_absorbing_kernel(schedule):
    """Every chance, for every state and pair of times; the cosine ends a little above nothing."""
    process = DiscreteDiffusion(AbsorbingTransition(4, 6, schedule))
    x_t = torch.tensor([[0, 3, 1, 3]])
    logits = torch.randn(1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for t in range(1, 7):
        for s in range(t):
            low, high = torch.tensor([s]), torch.tensor([t])
            found = CategoricalDDIM(0.0).law(process, logits, x_t, low, high).probs
            expected = process.reverse(logits, x_t, low, high).probs
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_without_fresh_noise_an_entry_stays_or_becomes_data(name):
    kernel = kernels(8)[name]
    x_t, s, t = torch.arange(3)[None], torch.tensor([3]), torch.tensor([6])
    logits = torch.tensor([0.0, -1e30, -1e30], dtype=torch.float64).expand(1, 3, 3)  # x_0 = 0
    law = CategoricalDDIM(0.0).law(DiscreteDiffusion(kernel), logits, x_t, s, t).probs[0]
    sigma = float((1 - kernel.alpha_bars[s]) / (1 - kernel.alpha_bars[t]))
    assert law[0].tolist() == pytest.approx([1, 0, 0], abs=1e-14)
    assert law[2].tolist() == pytest.approx([1 - sigma, 0, sigma], abs=1e-14)


def test_with_all_noise_fresh_the_guess_is_noised_anew(name):
    """Given x_0, what x_t was does not matter; under the absorbing kernel revealed tokens are masked again."""
    kernel = kernels(8)[name]
    x_t, s, t = torch.tensor([[2, 2], [0, 2]]), torch.full((2,), 3), torch.full((2,), 6)
    logits = torch.tensor([0.0, -1e30, -1e30], dtype=torch.float64).expand(2, 2, 3)
    law = CategoricalDDIM(1.0).law(DiscreteDiffusion(kernel), logits, x_t, s, t).probs
    expected = kernel.marginal(torch.zeros_like(x_t), s).probs
    torch.testing.assert_close(law, expected, rtol=0, atol=1e-14)


def test_the_error_of_joint_laws_falls_in_the_first_order_without_fresh_noise_and_slower_with_it(name):
    kernel, steps = kernels(128)[name], [16, 32, 64, 128]
    world, process = world_of(kernel, 2), DiscreteDiffusion(kernel)
    orders = [-slope(steps, errors(world, process, CategoricalDDIM(eta), steps)) for eta in (0.0, 0.5, 1.0)]
    assert orders[0] == pytest.approx(1, abs=0.06)
    assert 0.4 < orders[2] <= orders[1] < 0.9


@pytest.mark.parametrize("eta", ETAS)
def test_samples_follow_the_enumerated_law(name, eta):
    kernel, sampler = kernels(6)[name], CategoricalDDIM(eta)
    world, process = world_of(kernel, 2), DiscreteDiffusion(kernel)
    logits, seeded = world.random_logits(6), torch.Generator().manual_seed(8)
    found = draw(process, world.network(logits), (20_000, 2), steps=3, sampler=sampler, generator=seeded)
    law = run(world.prior, lambda s, t: step(world, process, sampler, logits, s, t), [6, 4, 2, 0])
    assert chi_square(torch.bincount(world.index(found.x0), minlength=9)[None], law[None]) > 1e-3


@pytest.mark.parametrize("eta", ETAS)
def test_samples_are_the_same_without_the_cache_and_known_entries_stay(name, eta):
    kernel = kernels(6)[name]
    world, process = world_of(kernel, 2), DiscreteDiffusion(kernel)
    x0, known = torch.tensor([[1, 0]]).expand(200, 2), torch.tensor([[True, False]]).expand(200, 2)
    network = world.network(world.random_logits(9))
    drawn = [
        sample(
            process,
            network,
            (200, 2),
            sampler=CategoricalDDIM(eta),
            x0=x0,
            known=known,
            cache=cache,
            generator=torch.Generator().manual_seed(9),
        )
        for cache in (True, False)
    ]
    assert torch.equal(*drawn)
    assert (drawn[0][:, 0] == 1).all()
    assert drawn[0][:, 1].unique().numel() > 1


def test_bad_values_and_other_kernels_are_refused():
    for eta in (-0.1, 1.5):
        with pytest.raises(ConfigError, match=r"CategoricalDDIM eta is .*: choose it in \[0, 1\]"):
            CategoricalDDIM(eta)
    assert "HybridTransition: use Ancestral" in refusal(
        CategoricalDDIM(), DiscreteDiffusion(HybridTransition(4, 5))
    )

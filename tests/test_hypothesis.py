"""Laws under random sizes: any shape, batches of one, two states, one step, sparse matrices."""

import itertools

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import Chain, concrete_subclasses
from torch.testing import assert_close

import d3pm
from d3pm import DiscreteDiffusion
from d3pm.sampling import cosine_grid, uniform_grid
from d3pm.transitions import MarginalTransition, MatrixTransition
from d3pm.transitions.base import Transition

KERNELS = concrete_subclasses(Transition)
kernels = st.sampled_from(KERNELS)
forms = st.sampled_from(["d3pm", "mixture"])
num_states = st.integers(2, 6)
num_steps = st.integers(1, 6)
batches = st.integers(1, 3)
trailing = st.lists(st.integers(1, 3), max_size=2).map(tuple)
seeds = st.integers(0, 2**31)
budget = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def data(transition: Transition, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    states = torch.tensor([x for x in range(transition.num_states) if x != transition.mask_state])
    return states[torch.randint(len(states), shape, generator=generator)]


def random_matrices(size: int, steps: int, generator: torch.Generator) -> torch.Tensor:
    """Row-stochastic (steps, size, size) with about a third of the entries zero."""
    weights = torch.rand(steps, size, size, generator=generator, dtype=torch.float64)
    keep = torch.rand(steps, size, size, generator=generator) > 0.35
    weights = weights * keep + 0.5 * torch.eye(size, dtype=torch.float64)
    return weights / weights.sum(-1, keepdim=True)


@budget
@given(kernels, forms, num_states, num_steps, batches, trailing, seeds)
def test_every_law_has_the_shape_of_the_data_and_sums_to_one(kernel, form, k, steps, batch, extra, seed):
    generator = torch.Generator().manual_seed(seed)
    transition = kernel.example(num_states=k, num_steps=steps)
    process = DiscreteDiffusion(transition, reverse_form=form)
    shape = (batch, *extra)
    x0 = data(transition, shape, generator)
    t = torch.randint(1, steps + 1, (batch,), generator=generator)
    s = (torch.rand(batch, generator=generator) * t).long()
    x_t = process.q_sample(x0, t, generator)
    logits = 5 * torch.randn((*shape, k), generator=generator, dtype=torch.float64)
    posterior, reverse = process.posterior(x0, x_t, s, t), process.reverse(logits, x_t, s, t)
    laws = [
        process.prior(shape),
        process.marginal(x0, t),
        posterior,
        reverse,
        process.predict(logits, x_t, t),
    ]
    for law in laws:
        assert law.probs.shape == (*shape, k)
        assert_close(law.probs.sum(-1).double(), torch.ones(shape, dtype=torch.float64), rtol=1e-12, atol=0)
        drawn = law.sample(generator)
        assert drawn.shape == law.mode.shape == shape
        assert drawn.dtype == torch.int64
        assert torch.isfinite(law.log_prob(drawn)).all()
    divergence = posterior.kl(reverse)
    assert divergence.shape == shape
    assert torch.isfinite(divergence).all()
    assert (divergence >= -1e-12).all()


@budget
@given(kernels, forms, num_states, num_steps, batches, trailing, seeds)
def test_the_bound_and_the_sampler_work_at_every_size(kernel, form, k, steps, batch, extra, seed):
    generator = torch.Generator().manual_seed(seed)
    transition = kernel.example(num_states=k, num_steps=steps)
    process = DiscreteDiffusion(transition, reverse_form=form)
    shape = (batch, *extra)
    table = torch.randn(k, k, generator=generator, dtype=torch.float64)

    def network(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert x_t.shape[1:] == shape[1:]
        assert t.shape == (len(x_t),)  # the sampler leaves out rows that are finished
        return table[x_t]

    terms = d3pm.vlb_terms(process, network, data(transition, shape, generator), generator=generator)
    assert terms.diffusion.shape == (batch, steps - 1)
    assert (terms.total >= -1e-12).all()
    wanted = 1 + seed % steps
    x0 = d3pm.sample(process, network, shape, steps=wanted, generator=generator)
    assert x0.shape == shape
    assert ((x0 >= 0) & (x0 < k)).all()
    if transition.mask_state is not None:
        assert (x0 != transition.mask_state).all()


@budget
@given(forms, num_states, num_steps, seeds)
def test_sparse_matrices_obey_bayes(form, k, steps, seed):
    """A random chain with forbidden jumps: posterior and reverse step at every pair that can occur."""
    generator = torch.Generator().manual_seed(seed)
    end = torch.full((k,), 1 / k, dtype=torch.float64)
    transition = MatrixTransition(random_matrices(k, steps, generator), law=end)
    chain, process = Chain.of(transition), DiscreteDiffusion(transition, reverse_form=form)
    t = 1 + seed % steps
    s = seed % t
    pairs = torch.tensor(chain.pairs(t))
    x0, x_t = pairs[:, :1], pairs[:, 1:]
    at, before = torch.full((len(pairs),), t), torch.full((len(pairs),), s)
    logits = torch.randn(len(pairs), 1, k, generator=generator, dtype=torch.float64)
    posterior = process.posterior(x0, x_t, before, at)
    reverse = process.reverse(logits, x_t, before, at)
    for row, (i, j) in enumerate(pairs.tolist()):
        assert_close(posterior.probs[row, 0], chain.posterior(i, j, s, t), rtol=1e-11, atol=1e-13)
        expected = chain.reverse(logits[row, 0], j, s, t, form)
        assert_close(reverse.probs[row, 0], expected, rtol=1e-11, atol=1e-13)
    assert torch.isfinite(posterior.kl(reverse)).all()


counts = st.lists(st.integers(0, 3) | st.integers(0, 10**9), min_size=2, max_size=5)


@budget
@given(forms, num_steps, counts.filter(lambda found: sum(n > 0 for n in found) > 1))
def test_marginal_frequencies_may_be_zero(form, steps, found):
    """A state data never takes has frequency 0: it is never jumped to, and nothing turns into NaN."""
    frequencies = torch.tensor(found, dtype=torch.float64)
    frequencies = frequencies / frequencies.sum()
    k = len(found)
    transition = MarginalTransition(frequencies, num_steps=steps)
    chain, process = Chain.of(transition), DiscreteDiffusion(transition, reverse_form=form)
    rows = torch.tensor([(i, j, t) for t in range(1, steps + 1) for i, j in chain.pairs(t)])
    x0, x_t, t = rows[:, :1], rows[:, 1:2], rows[:, 2]
    logits = torch.linspace(-1, 1, k, dtype=torch.float64).repeat(len(rows), 1, 1).requires_grad_()
    reverse = process.reverse(logits, x_t, t - 1, t)
    for row, (_, j, at) in enumerate(rows.tolist()):
        expected = chain.reverse(logits[row, 0], j, at - 1, at, form)
        assert_close(reverse.probs[row, 0], expected, rtol=1e-10, atol=1e-13)
    divergence = process.posterior(x0, x_t, t - 1, t).kl(reverse)
    assert torch.isfinite(divergence).all()
    (gradient,) = torch.autograd.grad(divergence.sum(), logits)
    assert torch.isfinite(gradient).all()


@budget
@given(st.integers(1, 2000), st.data(), st.sampled_from([uniform_grid, cosine_grid]))
def test_grids_fall_from_the_end_to_the_data_in_the_steps_asked_for(steps, data, grid):
    wanted = data.draw(st.integers(1, steps))
    times = grid(steps, wanted)
    assert len(times) == wanted + 1
    assert (times[0], times[-1]) == (steps, 0)
    assert all(before > after for before, after in itertools.pairwise(times))

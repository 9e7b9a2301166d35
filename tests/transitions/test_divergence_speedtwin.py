"""The bound's term in one pass over K equals what dense laws give, value and gradient, at the edges too."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from d3pm import AbsorbingTransition, DiscreteDiffusion, MarginalTransition, UniformTransition
from d3pm.discrete.continuous import ContinuousTimeBound, integrand
from d3pm.distributions import Categorical
from d3pm.objectives import AuxiliaryBound, CrossEntropy, Objective, VariationalBound
from d3pm.schedules import CosineSchedule, LinearSchedule
from d3pm.transitions import Transition


class Late(CosineSchedule):
    """Nothing happens up to u = 0.2."""

    def alpha_bar(self, u: Tensor) -> Tensor:
        return (1.2 - u.double()).clamp(max=1.0)


KERNELS = {
    "uniform": UniformTransition(7, num_steps=20),
    "slow": UniformTransition(7, num_steps=20, schedule=LinearSchedule(1e-9, 1e-8)),
    "late": MarginalTransition([0.5, 0.3, 0.1, 0.06, 0.03, 0.01, 0.0], num_steps=20, schedule=Late()),
    "marginal": MarginalTransition([0.5, 0.3, 0.1, 0.06, 0.03, 0.01, 0.0], num_steps=20),
}
TIMES = {"next": (3, 4), "far": (5, 19), "to the data": (0, 1), "all at once": (0, 20)}


def entries(kernel: Transition, s: int, t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Every pair of states that can occur, and the two times."""
    x0, x_t = torch.cartesian_prod(torch.arange(7), torch.arange(7)).unbind(1)
    times = torch.full_like(x0, s), torch.full_like(x0, t)
    possible = kernel.reachable(x0, x_t, times[1])
    return x0[possible], x_t[possible], times[0][possible], times[1][possible]


def both(kernel: Transition, logits: Tensor, s: int, t: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Divergences and gradients of their weighted sum: fast ones, then dense ones."""
    x0, x_t, before, after = (each.unsqueeze(1) for each in entries(kernel, s, t))
    before, after = before[:, 0], after[:, 0]
    process, out = DiscreteDiffusion(kernel), []
    weights = torch.linspace(1, 2, len(x0), dtype=torch.float64).unsqueeze(1)
    for dense in (False, True):
        leaf = logits[: len(x0)].clone().requires_grad_()
        posterior = process.posterior(x0, x_t, before, after)
        reverse = process.reverse(leaf, x_t, before, after)
        if dense:
            known = Categorical(posterior.log_probs)
            term = known.kl(Categorical(reverse.log_probs))
        else:
            term = posterior.kl(reverse)
        (term * weights).sum().backward()
        assert leaf.grad is not None
        out += [term.detach(), leaf.grad]
    return out[0], out[1], out[2], out[3]


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("name", KERNELS)
def test_every_pair_of_states(name: str, times: str) -> None:
    torch.manual_seed(0)
    logits = torch.randn(49, 1, 7, dtype=torch.float64) * 3
    fast, fast_grad, dense, dense_grad = both(KERNELS[name], logits, *TIMES[times])
    torch.testing.assert_close(fast, dense, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(fast_grad, dense_grad, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("depth", [740.0, 2000.0])
@pytest.mark.parametrize("name", [name for name in KERNELS if name != "late"])  # there x_1 tells x_0
def test_beliefs_near_and_below_the_smallest_number(name: str, depth: float) -> None:
    """A belief of e^-2000 in the data is 2000 nats at s = 0, not infinity, and its gradient points to it."""
    kernel = KERNELS[name]
    x0, x_t, _, t = (each[:6].view(-1, 1) for each in entries(kernel, 0, 1))
    logits = torch.zeros(6, 1, 7, dtype=torch.float64).scatter_(2, x0.unsqueeze(2), -depth).requires_grad_()
    process, time = DiscreteDiffusion(kernel), t[:, 0]
    term = process.posterior(x0, x_t, time - 1, time).kl(process.reverse(logits, x_t, time - 1, time))
    wanted = torch.full_like(term, depth) + torch.tensor(6.0).double().log()
    torch.testing.assert_close(term, wanted)
    (grad,) = torch.autograd.grad(term.sum(), logits)
    torch.testing.assert_close(grad.gather(2, x0.unsqueeze(2)), -torch.ones(6, 1, 1, dtype=torch.float64))


def test_the_network_may_stay_in_float32_where_steps_hardly_differ() -> None:
    """The divergence of a slow step is of the order of its beta; what float32 loses there is a share of it."""
    torch.manual_seed(0)
    logits = torch.randn(49, 1, 7)
    wanted, wanted_grad, *_ = both(KERNELS["slow"], logits.double(), 3, 4)
    found, found_grad, *_ = both(KERNELS["slow"], logits, 3, 4)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-12)
    torch.testing.assert_close(found_grad.double(), wanted_grad, rtol=1e-4, atol=1e-6)


def test_one_graph() -> None:
    """A compiler goes through it without a break, and gets the same."""
    kernel = KERNELS["uniform"]
    process = DiscreteDiffusion(kernel)
    x0, x_t, s, t = entries(kernel, 3, 4)
    x0, x_t = x0.unsqueeze(1), x_t.unsqueeze(1)
    logits = torch.randn(len(x0), 1, 7, requires_grad=True)

    def term(logits: Tensor) -> Tensor:
        return process.posterior(x0, x_t, s, t).kl(process.reverse(logits, x_t, s, t)).sum()

    compiled = torch.compile(term, backend="aot_eager", fullgraph=True)
    (wanted,) = torch.autograd.grad(term(logits), logits)
    (found,) = torch.autograd.grad(compiled(logits), logits)
    torch.testing.assert_close(found, wanted)


def dense_rate(kernel: Transition, logits: Tensor, x0: Tensor, x_u: Tensor, u: Tensor) -> Tensor:
    """The continuous bound's integrand from its definition: every state of (K, K) matrices, one by one."""
    level = kernel.schedule.alpha_bar(u)
    (slope,) = torch.autograd.grad(kernel.schedule.alpha_bar(v := u.clone().requires_grad_()).sum(), v)
    out = []
    for a, da, i, x, row in zip(level, slope, x_u, x0, logits, strict=True):
        reach = a * torch.eye(7).double() + (1 - a) * kernel.stationary()
        true, believed = reach[x] / reach[x, i], (row.softmax(-1) @ reach) / (row.softmax(-1) @ reach[:, i])
        terms = [
            b - r + (r * (r.log() - b.log()) if r > 0 else 0.0)
            for j, (r, b) in enumerate(zip(true, believed, strict=True))
            if j != i
        ]
        out.append(-da / a * kernel.stationary()[i] * sum(terms))
    return torch.stack(out)


@pytest.mark.parametrize("u", [0.01, 0.4, 0.93, 1 - 1e-5])
@pytest.mark.parametrize("name", ["uniform", "marginal"])
def test_the_rate_of_every_pair_of_states(name: str, u: float) -> None:
    """An infinitesimal step in one pass is what its definition says, value and gradient."""
    torch.manual_seed(1)
    kernel = KERNELS[name]
    x0, x_u, *_ = entries(kernel, 3, 4)
    leaf = (3 * torch.randn(len(x0), 7, dtype=torch.float64)).requires_grad_()
    times, weights = torch.full((len(x0),), u, dtype=torch.float64), torch.linspace(1, 2, len(x0))
    slow = dense_rate(kernel, leaf, x0, x_u, times)
    fast = integrand(DiscreteDiffusion(kernel), leaf.unsqueeze(1), x0[:, None], x_u[:, None], times)[:, 0]
    torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-11)
    (slow_grad,) = torch.autograd.grad((slow * weights).sum(), leaf)
    (fast_grad,) = torch.autograd.grad((fast * weights).sum(), leaf)
    torch.testing.assert_close(fast_grad, slow_grad, rtol=1e-7, atol=1e-10)


class Passes(TorchDispatchMode):
    """Counts normalisations over K."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += func is torch.ops.aten._log_softmax.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("form", ["d3pm", "mixture"])
@pytest.mark.parametrize("name", [*KERNELS, "absorbing"])
def test_the_auxiliary_bound_is_its_two_parts(name: str, form: str) -> None:
    """Together they cost one pass where there is a fast one, and are what they are apart, gradients too."""
    torch.manual_seed(2)
    kernel = KERNELS.get(name) or AbsorbingTransition(7, num_steps=20)
    process = DiscreteDiffusion(kernel, reverse_form=form)
    t = torch.arange(1, 21)
    x0 = torch.randint(6, (20, 30))
    x_t = process.q_sample(x0, t)
    leaf = (3 * torch.randn(20, 30, 7, dtype=torch.float64)).requires_grad_()

    def at(objective: Objective) -> Tensor:
        return objective.at(process, leaf, x0, x_t, t)

    with Passes() as passes:
        together = at(AuxiliaryBound(0.3))
    assert passes.count == (1 if form == "d3pm" or name == "absorbing" else 2)
    apart = at(VariationalBound()) + 20 * 0.3 * at(CrossEntropy())
    torch.testing.assert_close(together, apart, rtol=1e-10, atol=1e-12)
    weights = torch.linspace(1, 2, 600, dtype=torch.float64).view(20, 30)
    (found,) = torch.autograd.grad((together * weights).sum(), leaf)
    (wanted,) = torch.autograd.grad((apart * weights).sum(), leaf)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("objective", [VariationalBound(), AuxiliaryBound(), ContinuousTimeBound()])
def test_one_pass_for_the_bound(objective: Objective) -> None:
    """Neither the discrete nor the continuous bound normalises a batch of logits twice."""
    process = DiscreteDiffusion(KERNELS["marginal"])
    x0 = torch.randint(5, (4, 30))
    with Passes() as passes:
        objective(process, lambda x, t: torch.zeros(*x.shape, 7), x0)
    assert passes.count == 1

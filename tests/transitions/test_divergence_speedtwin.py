"""The bound's term in one pass over K equals what dense laws give, value and gradient, at the edges too."""

import pytest
import torch
from torch import Tensor

from d3pm import DiscreteDiffusion, MarginalTransition, UniformTransition
from d3pm.distributions import Categorical
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

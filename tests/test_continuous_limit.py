"""Continuous time: what the finite bound tends to, how fast, and the published closed forms; by quadrature."""

import numpy as np
import pytest
import torch
from oracle import concrete_subclasses
from torch.testing import assert_close

from d3pm import (
    AbsorbingTransition,
    DiscreteDiffusion,
    MarginalTransition,
    MatrixTransition,
    UniformTransition,
)
from d3pm.discrete.continuous import ContinuousTimeBound, integrand, survival_and_slope
from d3pm.errors import D3PMError
from d3pm.objectives import step_term
from d3pm.schedules import (
    CosineSchedule,
    LinearSchedule,
    PolynomialSchedule,
    ReciprocalSchedule,
    Schedule,
    UnsquaredCosineSchedule,
)

K = 4
LAW = torch.tensor(
    [0.45, 0.3, 0.25, 0.0], dtype=torch.float64
)  # the last state is the mask where there is one
FREQUENCIES = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)


def kernel(name: str, schedule: Schedule, num_steps: int = 100):
    if name == "marginal":
        return MarginalTransition(FREQUENCIES, num_steps=num_steps, schedule=schedule)
    cls = {"absorbing": AbsorbingTransition, "uniform": UniformTransition}[name]
    return cls(num_states=K, num_steps=num_steps, schedule=schedule)


def likelihood(transition, u: torch.Tensor) -> torch.Tensor:
    """q(x_u = i | x_0 = x), (N, x, i), from the formula."""
    keep = transition.schedule.alpha_bar(u)[:, None, None]
    return keep * torch.eye(K, dtype=torch.float64) + (1 - keep) * transition.stationary()


def exact_logits(transition, u: torch.Tensor, tilt: float = 0.0) -> torch.Tensor:
    """The exact log-belief in x_0 given x_u, (N, i, x), unnormalised; a ``tilt`` makes it wrong."""
    keep = transition.schedule.alpha_bar(u)[:, None, None]
    table = torch.randn(K, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    belief = (LAW[:, None] * likelihood(transition, u)).mT
    logits = torch.where(belief > 0, belief.clamp_min(1e-300).log(), -1e30)
    return logits + tilt * table * (1 + keep)


def everything(transition, u: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Every (u, x_0, x_u) with its probability, given u: weights (M,), x_0 (M, 1), x_u (M, 1), index of u (M,)."""
    joint = LAW[:, None] * likelihood(transition, u)
    n, x0, x_u = joint.nonzero().unbind(-1)
    return joint[n, x0, x_u], x0[:, None], x_u[:, None], n


def continuous_bound(name: str, schedule: Schedule, form: str, tilt: float) -> float:
    """The integral by Gauss-Legendre on panels that shrink towards both ends, and the divergence at u = 1."""
    transition = kernel(name, schedule)
    process = DiscreteDiffusion(transition, reverse_form=form)
    ends = np.concatenate([0.5 ** np.arange(40, 0, -1), 1 - 0.5 ** np.arange(2, 41)])
    ends = np.concatenate([[0.0], ends, [1.0]])
    nodes, node_weights = np.polynomial.legendre.leggauss(12)
    half, middle = np.diff(ends)[:, None] / 2, (ends[1:] + ends[:-1])[:, None] / 2
    u = torch.from_numpy((middle + half * nodes).ravel())
    du = torch.from_numpy((half * node_weights).ravel())
    weights, x0, x_u, n = everything(transition, u)
    output = exact_logits(transition, u, tilt)[n, x_u[:, 0]][:, None]
    values = integrand(process, output, x0, x_u, u[n])[:, 0]
    end = likelihood(transition, torch.ones(1, dtype=torch.float64))[0]
    ratio = torch.special.xlogy(end, end) - torch.special.xlogy(end, transition.stationary())
    return float((weights * values * du[n]).sum() + LAW @ ratio.nansum(-1))


def finite_bound(name: str, schedule: Schedule, form: str, tilt: float, num_steps: int) -> float:
    """The bound of T steps, each term weighed by q(x_0, x_t): no sampling."""
    transition = kernel(name, schedule, num_steps)
    process = DiscreteDiffusion(transition, reverse_form=form)
    t = torch.arange(1, num_steps + 1)
    reach = transition.between(torch.zeros_like(t), t).dense()
    n, x0, x_t = (LAW[:, None] * reach).nonzero().unbind(-1)
    weights = (LAW[:, None] * reach)[n, x0, x_t]
    output = exact_logits(transition, t.double() / num_steps, tilt)[n, x_t][:, None]
    values = step_term(process, output, x0[:, None], x_t[:, None], t[n] - 1, t[n])[:, 0]
    data = torch.arange(K - 1)[:, None]
    end = process.marginal(data, torch.full((K - 1,), num_steps)).kl(process.prior((K - 1, 1)))[:, 0]
    return float((weights * values).sum() + LAW[: K - 1] @ end)


@pytest.mark.parametrize(
    ("name", "schedule", "form"),
    [
        ("absorbing", ReciprocalSchedule(), "d3pm"),
        ("absorbing", PolynomialSchedule(2.0), "mixture"),
        ("uniform", UnsquaredCosineSchedule(), "d3pm"),
        ("uniform", UnsquaredCosineSchedule(), "mixture"),
        ("uniform", LinearSchedule(), "d3pm"),
        ("marginal", CosineSchedule(), "d3pm"),
        ("marginal", PolynomialSchedule(1.0), "mixture"),
    ],
)
def test_the_finite_bound_converges_at_order_one(name, schedule, form):
    """The error halves when T doubles: the slope of log error against log T is -1."""
    limit = continuous_bound(name, schedule, form, tilt=0.7)
    sizes = [64, 128, 256, 512]
    errors = [abs(finite_bound(name, schedule, form, 0.7, size) - limit) for size in sizes]
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    assert slope == pytest.approx(-1, abs=0.1)
    assert errors[-1] < 0.02


@pytest.mark.parametrize("schedule", [ReciprocalSchedule(), UnsquaredCosineSchedule()])
@pytest.mark.parametrize("name", ["absorbing", "uniform", "marginal"])
def test_with_the_exact_belief_the_bound_is_the_entropy(name, schedule):
    """One entry, mixture form: the reverse process is exact, and only the divergence from the prior is added."""
    entropy = float(torch.special.entr(LAW).sum())
    transition = kernel(name, schedule)
    end = LAW @ likelihood(transition, torch.ones(1, dtype=torch.float64))[0]
    ratio = torch.special.xlogy(end, end) - torch.special.xlogy(end, transition.stationary())
    expected = entropy + float(ratio.nansum())
    if name == "absorbing" and float(schedule.alpha_bar(torch.ones(()))) > 0:
        pytest.skip("ends with a trace of signal, for which an all-mask prior charges infinity")
    assert continuous_bound(name, schedule, "mixture", tilt=0.0) == pytest.approx(expected, abs=1e-6)


def test_the_absorbing_bound_does_not_depend_on_the_schedule():
    schedules = [ReciprocalSchedule(), PolynomialSchedule(2.0), PolynomialSchedule(0.5)]
    values = [continuous_bound("absorbing", schedule, "d3pm", tilt=0.7) for schedule in schedules]
    assert values == pytest.approx([values[0]] * 3, abs=1e-6)


def test_the_absorbing_integrand_is_the_weighted_cross_entropy():
    """-a'/(1 - a) times the surprise at masked entries, nothing at others."""
    process = DiscreteDiffusion(kernel("absorbing", PolynomialSchedule(2.0)))
    u = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    x0, masked = torch.tensor([[0, 1], [2, 0], [1, 1]]), torch.tensor([[3, 1], [3, 3], [1, 3]])
    output = torch.randn(3, 2, K, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    surprise = torch.nn.functional.cross_entropy(
        output[..., :3].flatten(0, 1), x0.flatten(), reduction="none"
    )
    expected = torch.where(masked == 3, (2 * u / u**2)[:, None] * surprise.view(3, 2), 0.0)
    assert_close(integrand(process, output, x0, masked, u), expected, rtol=1e-10, atol=1e-12)


def test_the_uniform_integrand_is_the_published_one():
    r"""a'/(K a) [K/x_i - K/y_i - sum_j (x_j/x_i) log(y_i x_j / (y_j x_i))], x = K a e_{x_0} + 1 - a, y likewise."""
    schedule = UnsquaredCosineSchedule()
    process = DiscreteDiffusion(kernel("uniform", schedule), reverse_form="d3pm")
    u = torch.tensor([0.01, 0.2, 0.5, 0.9], dtype=torch.float64)
    keep, slope = survival_and_slope(schedule, u)
    output = torch.randn(4, 1, K, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for first in range(K):
        for now in range(K):
            x0, i = torch.full((4, 1), first), torch.full((4, 1), now)
            a = keep[:, None]
            x = K * a * torch.nn.functional.one_hot(x0[:, 0], K) + 1 - a
            y = K * a * output[:, 0].softmax(-1) + 1 - a
            x_i, y_i = x[:, [now]], y[:, [now]]
            brackets = K / x_i - K / y_i - (x / x_i * (y_i * x / (y * x_i)).log()).sum(-1, keepdim=True)
            expected = slope[:, None] / (K * a) * brackets
            assert_close(integrand(process, output, x0, i, u), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cls", concrete_subclasses(Schedule))
def test_slopes_are_derivatives(cls):
    """Against central differences; a schedule that cannot be differentiated refuses in one line."""
    schedule = cls.example()
    u = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    try:
        keep, slope = survival_and_slope(schedule, u)
    except D3PMError:
        return
    assert_close(keep, schedule.alpha_bar(u), rtol=1e-12, atol=0)
    step = 1e-5
    difference = (schedule.alpha_bar(u + step) - schedule.alpha_bar(u - step)) / (2 * step)
    assert_close(slope, difference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("form", ["d3pm", "mixture"])
@pytest.mark.parametrize("name", ["absorbing", "uniform", "marginal"])
class TestObjective:
    def test_its_mean_is_the_integral(self, name, form):
        """Monte Carlo over 40,000 stratified times; the network is told u T."""
        transition = kernel(
            name, CosineSchedule() if name != "absorbing" else ReciprocalSchedule(), num_steps=50
        )
        process = DiscreteDiffusion(transition, reverse_form=form)

        def network(x_u: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            rows = torch.arange(len(t))[:, None]
            return exact_logits(transition, t.double() / 50, tilt=0.7)[rows, x_u]

        generator = torch.Generator().manual_seed(4)
        x0 = torch.multinomial(LAW, 40_000, replacement=True, generator=generator)[:, None]
        losses = ContinuousTimeBound()(process, network, x0, generator=generator)
        assert losses.shape == (40_000,)
        expected = continuous_bound(name, transition.schedule, form, tilt=0.7)
        error = float(losses.std()) / 200
        assert float(losses.mean()) == pytest.approx(expected, abs=4.5 * error)

    def test_gradients_are_finite_at_every_time(self, name, form):
        """The ends included: u = T/T is a time that a hybrid loss draws."""
        transition = kernel(name, ReciprocalSchedule(), num_steps=10)
        process = DiscreteDiffusion(transition, reverse_form=form)
        t = torch.arange(1, 11)
        x0 = torch.randint(K - 1, (10, 8), generator=torch.Generator().manual_seed(5))
        x_t = process.q_sample(x0, t, torch.Generator().manual_seed(6))
        for dtype in (torch.float32, torch.float64):
            for scale in (1.0, 1e3):
                output = (
                    torch.randn(10, 8, K, generator=torch.Generator().manual_seed(7), dtype=dtype) * scale
                )
                output.requires_grad_()
                loss = ContinuousTimeBound().at(process, output, x0, x_t, t)
                assert loss.dtype == dtype
                assert torch.isfinite(loss).all()
                assert (loss > -1e-6).all()
                (gradient,) = torch.autograd.grad(loss.sum(), output)
                assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("schedule", [UnsquaredCosineSchedule(), CosineSchedule(), ReciprocalSchedule()])
@pytest.mark.parametrize("form", ["d3pm", "mixture"])
def test_the_uniform_integrand_vanishes_with_the_signal(schedule, form):
    """At u = 1 nothing is left to tell states apart; near it the rate is large and the divergence small."""
    process = DiscreteDiffusion(kernel("uniform", schedule), reverse_form=form)
    u = torch.tensor([1 - 1e-4, 1 - 1e-8, 1 - 1e-12, 1.0], dtype=torch.float64)
    x0, x_u = torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1, dtype=torch.int64)
    output = torch.randn(4, 1, K, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    value = integrand(process, output, x0, x_u, u)[:, 0]
    assert torch.isfinite(value).all()
    assert (value.abs() < 20 * (1 - u) + 1e-3).all()


@pytest.mark.parametrize("form", ["d3pm", "mixture"])
def test_frequencies_of_zero_are_no_trouble(form):
    """A state that is never jumped to contributes nothing, not NaN."""
    frequencies = torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64)
    process = DiscreteDiffusion(MarginalTransition(frequencies, num_steps=4), reverse_form=form)
    u = torch.tensor([0.5, 0.5], dtype=torch.float64)
    output = torch.zeros(2, 1, 3, dtype=torch.float64, requires_grad=True)
    value = integrand(process, output, torch.tensor([[2], [2]]), torch.tensor([[2], [0]]), u)
    assert torch.isfinite(value).all()
    (gradient,) = torch.autograd.grad(value.sum(), output)
    assert torch.isfinite(gradient).all()


def test_other_kernels_are_refused():
    process = DiscreteDiffusion(MatrixTransition.example(num_states=3, num_steps=2))
    with pytest.raises(D3PMError, match="ContinuousTimeBound"):
        ContinuousTimeBound()(
            process, lambda x, t: torch.zeros(*x.shape, 3), torch.zeros(2, 1, dtype=torch.int64)
        )

"""The oracle itself: its closed forms against quadrature, autograd and each other."""

import torch
from mixture import Mixture

LAW = Mixture([[-0.5, 0.1], [0.4, -0.6], [0.6, 0.5]], [[0.1, 0.3], [0.2, 0.2], [0.15, 0.05]], [1.0, 2.0, 3.0])
LINE = Mixture([[-0.5], [0.6]], [0.1, 0.25], [0.3, 0.7])
X = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ABAR = torch.linspace(0.05, 0.95, 7, dtype=torch.float64)


def test_the_score_is_the_gradient_of_the_diffused_density():
    for x, abar in zip(X, ABAR, strict=True):
        at = x[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(LAW.diffused(abar).log_prob(at).sum(), at)
        torch.testing.assert_close(LAW.score(x[None], abar), gradient)
    each = torch.cat([LAW.score(x[None], abar) for x, abar in zip(X, ABAR, strict=True)])
    torch.testing.assert_close(LAW.score(X, ABAR), each)


def test_denoised_and_noise_make_up_the_input():
    kept = ABAR[:, None]
    torch.testing.assert_close(kept.sqrt() * LAW.x0(X, ABAR) + (1 - kept).sqrt() * LAW.eps(X, ABAR), X)


def test_the_denoised_mean_by_quadrature():
    x0 = torch.linspace(-4, 4, 40001, dtype=torch.float64)
    for x_t, abar in ((-1.0, 0.3), (0.2, 0.9)):
        joint = (LINE.log_prob(x0[:, None]) - (x_t - abar**0.5 * x0) ** 2 / (2 * (1 - abar))).exp()
        mean = torch.trapezoid(x0 * joint, x0) / torch.trapezoid(joint, x0)
        torch.testing.assert_close(LINE.x0(torch.tensor([[x_t]]), abar).squeeze(), mean)


def test_labels_split_the_law():
    for y in range(3):
        labels = torch.full((7,), y)
        torch.testing.assert_close(LAW.score(X, ABAR, labels), LAW.component(y).score(X, ABAR))
    torch.testing.assert_close(LAW.score(X, ABAR, torch.full((7,), 3)), LAW.score(X, ABAR))
    at = X.clone().requires_grad_()
    y = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    (gradient,) = torch.autograd.grad(LAW.label_prob(at, ABAR, y).log().sum(), at)
    torch.testing.assert_close(gradient, LAW.score(X, ABAR, y) - LAW.score(X, ABAR))


def test_samples_have_the_law_and_its_moments():
    x = LAW.sample(20000, torch.Generator().manual_seed(1))
    assert min(LAW.ks(x, u) for u in ([1, 0], [0, 1], [0.6, -0.8])) > 1e-3
    torch.testing.assert_close(x.T.cov(), LAW.covariance, atol=0.01, rtol=0)
    assert LAW.ks(x + 0.02, [1, 0]) < 1e-3


def test_the_entropy_is_minus_the_mean_log_density():
    log_p = LINE.log_prob(LINE.sample(200000, torch.Generator().manual_seed(2)))
    assert abs(LINE.entropy() + log_p.mean()) < 4 * log_p.std() / 200000**0.5

"""The probability flow: it carries laws onto laws, backwards too, and its likelihood is the density."""

import math

import pytest
import torch
from mixture import Mixture
from torch import Tensor

from d3pm.errors import ConfigError, DataError
from d3pm.gaussian.likelihood import dequantize, log_likelihood, with_divergence
from d3pm.gaussian.ode import ode_sample, transport
from d3pm.gaussian.process import GaussianDiffusion
from d3pm.gaussian.score import Counted, score_of
from d3pm.gaussian.sde import SDE, VESDE, VPSDE, SubVPSDE
from d3pm.schedules import CosineSchedule, LinearSchedule

LINE = Mixture([[-0.6], [0.5]], [0.1, 0.2], [0.4, 0.6])
PLANE = Mixture([[-0.5, 0.4], [0.6, 0.3], [0.1, -0.7]], [[0.1, 0.3], [0.2, 0.1], [0.25, 0.25]], [1, 2, 2])
GAUSSIAN = Mixture([[0.2, -0.3]], [[0.3, 0.6]], [1.0])
SDES = [VPSDE(), SubVPSDE(), VESDE(), VPSDE(CosineSchedule(), span=0.99)]
MILLIBIT = 1e-3 * math.log(2)

each_sde = pytest.mark.parametrize("sde", SDES, ids=lambda sde: type(sde).__name__)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def oracle(law: Mixture, sde: SDE, network=None, **cond):
    """The score of a law through the discrete-time process, as a trained network would give it."""
    process = GaussianDiffusion(LinearSchedule(), 1000, levels=None)
    return score_of(process, network or law.network(process), sde, **cond)


def noised(law: Mixture, sde: SDE, u: float) -> Mixture:
    return law.noised(*sde.moments(torch.tensor([u], dtype=torch.float64)))


def prior_error(law: Mixture, sde: SDE, latent: Tensor) -> Tensor:
    """What the prior does not know of the data: log of the true law of x_1 over the prior, (B,)."""
    prior = sde.prior(latent.shape, dtype=latent.dtype)
    return noised(law, sde, 1.0).log_prob(latent) - prior.log_prob(latent).sum(-1)


# ---- likelihoods


@each_sde
@pytest.mark.parametrize("law", [LINE, PLANE], ids=["1d", "2d"])
def test_the_likelihood_is_the_analytic_density(sde, law):
    x = law.sample(50, seeded())
    found = log_likelihood(sde, oracle(law, sde, first=0.0), x, probes=None)
    exact = noised(law, sde, 1e-5).log_prob(x)
    error = found.log_prob + prior_error(law, sde, found.latent) - exact
    assert error.abs().max() / law.num_dims < MILLIBIT  # the flow alone, every example
    assert abs((found.log_prob - exact).mean()) / law.num_dims < MILLIBIT  # with the prior
    if sde.prior_std == 1:  # little noise is left: it is the density of the data
        assert abs((found.log_prob - law.log_prob(x)).mean()) / law.num_dims < MILLIBIT
    torch.testing.assert_close(found.bits_per_dim(), -found.log_prob / (law.num_dims * math.log(2)))
    assert 30 < found.evaluations < 300


def test_a_chain_of_whole_times_gives_nearly_the_likelihood():
    """A network that knows 1 … T only and rounds the time. Measured: 0.002 bits/dim off on average, 0.017 at worst."""
    process = GaussianDiffusion(LinearSchedule(), 1000, levels=None)
    exact = PLANE.network(process)

    def rounded(x_t: Tensor, t: Tensor) -> Tensor:
        assert ((t >= 1) & (t <= 1000)).all()
        return exact(x_t, t.round().long())

    x = PLANE.sample(50, seeded())
    found = log_likelihood(VPSDE(), oracle(PLANE, VPSDE(), rounded), x, probes=None, rtol=1e-3, atol=1e-3)
    error = (found.log_prob - PLANE.log_prob(x)).abs() / (2 * math.log(2))
    assert error.mean() < 0.01
    assert error.max() < 0.05


def test_keeping_the_first_score_costs_nothing_to_speak_of():
    x = PLANE.sample(50, seeded())
    kept, exact = (
        log_likelihood(VPSDE(), oracle(PLANE, VPSDE(), first=first), x, probes=None).log_prob
        for first in (1.0, 0.0)
    )
    torch.testing.assert_close(kept, exact, atol=1e-3, rtol=0)


def test_hutchinson_is_unbiased():
    """200 copies of two points, each with probes of its own: the mean is the exact value within standard errors."""
    points = torch.tensor([[0.3, 0.2], [-0.4, -0.1]], dtype=torch.float64)
    exact = log_likelihood(VPSDE(), oracle(PLANE, VPSDE()), points, probes=None).log_prob
    spread = {}
    for probes, probe in ((1, "rademacher"), (1, "gaussian"), (8, "gaussian")):
        copies = points.repeat_interleave(200, 0)
        found = log_likelihood(
            VPSDE(),
            oracle(PLANE, VPSDE()),
            copies,
            probes=probes,
            probe=probe,
            generator=seeded(1),
        )
        draws = found.log_prob.view(2, 200)
        assert ((draws.mean(1) - exact).abs() < 4 * draws.std(1) / 200**0.5 + 1e-3).all()
        spread[probes, probe] = draws.std(1)
    assert (spread[1, "gaussian"] > 0.1).all()  # there was something to average out
    torch.testing.assert_close(spread[8, "gaussian"], spread[1, "gaussian"] / 8**0.5, rtol=0.25, atol=0)


def test_rademacher_probes_are_exact_on_a_diagonal_jacobian():
    x = GAUSSIAN.sample(20, seeded())
    found = log_likelihood(VPSDE(), oracle(GAUSSIAN, VPSDE(), first=0.0), x, probes=1, generator=seeded(1))
    error = found.log_prob + prior_error(GAUSSIAN, VPSDE(), found.latent) - GAUSSIAN.log_prob(x)
    assert error.abs().max() / 2 < MILLIBIT


def test_the_divergence_of_a_known_field():
    matrix = torch.randn(6, 6, dtype=torch.float64, generator=seeded())
    x = torch.randn(3, 1, 2, 3, dtype=torch.float64, generator=seeded())

    def field(x: Tensor, u: Tensor) -> Tensor:
        flat = x.flatten(1)
        return (flat @ matrix.T + flat**2).view_as(x)

    basis = [e.view(1, 1, 2, 3) for e in torch.eye(6, dtype=torch.float64)]
    value, divergence = with_divergence(field, x, torch.ones(3), basis, exact=True)
    torch.testing.assert_close(value, field(x, torch.ones(3)))
    torch.testing.assert_close(divergence, matrix.trace() + 2 * x.flatten(1).sum(1))


def test_conditions_give_the_conditional_likelihood():
    x, labels = PLANE.component(1).sample(10, seeded()), torch.full((10,), 1)
    found = log_likelihood(VPSDE(), oracle(PLANE, VPSDE(), labels=labels), x, probes=None)
    torch.testing.assert_close(found.log_prob, PLANE.component(1).log_prob(x), atol=0.02, rtol=0)


def test_pictures_keep_their_shape_and_doubled_channels_are_read():
    """The same law as (B, D) and as (B, C, H, W), from a network that also says its variance."""
    process = GaussianDiffusion(LinearSchedule(), 1000, variance="learned_range", levels=None)
    exact, x = PLANE.network(process), PLANE.sample(10, seeded())

    def network(x_t: Tensor, t: Tensor) -> Tensor:
        return torch.cat([exact(x_t, t), torch.zeros_like(x_t)], 1)

    score = score_of(process, network, VPSDE())
    flat = log_likelihood(VPSDE(), oracle(PLANE, VPSDE()), x, probes=None)
    picture = log_likelihood(VPSDE(), score, x.view(10, 1, 2, 1), probes=None)
    assert picture.latent.shape == (10, 1, 2, 1)
    torch.testing.assert_close(picture.latent.flatten(1), flat.latent)
    torch.testing.assert_close(picture.bits_per_dim(), flat.bits_per_dim())
    assert ode_sample(VPSDE(), score, (3, 1, 2, 1), rtol=1e-2, atol=1e-2).shape == (3, 1, 2, 1)


def test_float32_costs_little():
    x = PLANE.sample(50, seeded())
    score = oracle(PLANE, VPSDE())
    double = log_likelihood(VPSDE(), score, x, probes=None)
    single = log_likelihood(VPSDE(), score, x.float(), probes=None)
    assert single.latent.dtype == torch.float32
    assert (single.log_prob - double.log_prob).abs().mean() / 2 < MILLIBIT


def test_an_example_does_not_depend_on_its_batch():
    """One step size serves the batch, chosen for the worst example: an outlier is not averaged away."""
    easy, outlier = LINE.sample(200, seeded()), torch.tensor([[-1.6]], dtype=torch.float64)
    score = oracle(LINE, VPSDE(), first=0.0)
    together = log_likelihood(VPSDE(), score, torch.cat([easy, outlier]), probes=None)
    alone = log_likelihood(VPSDE(), score, outlier, probes=None)
    torch.testing.assert_close(together.log_prob[-1:], alone.log_prob, atol=1e-3, rtol=0)
    torch.testing.assert_close(
        alone.log_prob, noised(LINE, VPSDE(), 1e-5).log_prob(outlier), atol=0, rtol=1e-3
    )


# ---- pictures


@pytest.mark.parametrize("levels", [2, 16, 256])
def test_dequantizing_fills_the_bins_evenly(levels):
    k = torch.arange(levels).repeat(4000 // levels)
    x = dequantize(2 * k.double() / (levels - 1) - 1, levels, seeded())
    bins = (x + 1) * levels / 2
    assert torch.equal(bins.floor().long(), k)
    part = (bins - k).sort().values
    assert (part - torch.linspace(0, 1, len(part), dtype=torch.float64)).abs().max() < 2 / len(part) ** 0.5


def test_bits_of_a_picture_add_seven_at_256_levels():
    law = Mixture([[0.1, -0.2]], [[0.3, 0.2]], [1.0])
    level = ((law.sample(50, seeded()).clamp(-1, 1) + 1) / 2 * 255).round()
    found = log_likelihood(
        VPSDE(), oracle(law, VPSDE()), 2 * level / 255 - 1, levels=256, probes=None, generator=seeded(1)
    )
    spread = dequantize(2 * level / 255 - 1, 256, seeded(1))
    density = -law.log_prob(spread) / (2 * math.log(2))
    torch.testing.assert_close(found.bits_per_dim(), density + 7, atol=5e-3, rtol=0)
    edges = torch.stack([2 * (level + side) / 256 - 1 for side in (0, 1)])
    mass = torch.special.ndtr((edges - law.means) / law.stds).diff(dim=0)[0]
    bits = -mass.log2().mean(1)  # of the picture itself, which the dequantized density bounds
    assert abs((found.bits_per_dim() - bits).mean()) < 0.02


def test_pictures_out_of_range_are_refused():
    with pytest.raises(DataError, match=r"x0 runs from -1 to 2: pictures of 256 levels lie in \[-1, 1\]"):
        log_likelihood(VPSDE(), oracle(LINE, VPSDE()), torch.tensor([[-1.0], [2.0]]), levels=256)


# ---- samples and encodings


@each_sde
def test_the_flow_carries_quantiles_to_quantiles(sde):
    """In one dimension a monotone map between two laws is unique: F_1(x_1) = F_0(x_0)."""
    start, end = noised(LINE, sde, 1e-3), noised(LINE, sde, 1.0)
    x = start.sample(100, seeded())
    latent = transport(sde, oracle(LINE, sde, first=0.0), x, start=1e-3, end=1.0)
    torch.testing.assert_close(end.cdf(latent), start.cdf(x), atol=1e-4, rtol=0)


@pytest.mark.parametrize("sde", SDES[:3], ids=lambda sde: type(sde).__name__)
def test_decoding_an_encoding_returns_the_data(sde):
    """To the tolerance asked for: the score is as good as exact, the solver's error is what remains."""
    score, x = Counted(oracle(PLANE, sde)), PLANE.sample(20, seeded())
    calls = []
    for tolerance, error in ((1e-5, 5e-3), (1e-7, 5e-5)):
        options = {"rtol": tolerance, "atol": tolerance}
        latent = transport(sde, score, x, start=1e-3, end=1.0, **options)
        back = transport(sde, score, latent, start=1.0, end=1e-3, **options)
        torch.testing.assert_close(back, x, atol=error, rtol=0)
        calls.append(score.calls)
    assert calls[1] > 2 * calls[0]


def test_the_latent_of_the_likelihood_is_the_encoding():
    x = PLANE.sample(20, seeded())
    score = oracle(PLANE, VPSDE())
    latent = transport(VPSDE(), score, x, start=1e-5, end=1.0, rtol=1e-7, atol=1e-7)
    found = log_likelihood(VPSDE(), score, x, probes=2)
    torch.testing.assert_close(found.latent, latent, atol=1e-4, rtol=0)


@each_sde
def test_a_gaussian_is_carried_by_a_linear_map(sde):
    start, end = noised(GAUSSIAN, sde, 0.01), noised(GAUSSIAN, sde, 1.0)
    x = start.sample(20, seeded())
    latent = transport(sde, oracle(GAUSSIAN, sde, first=0.0), x, start=0.01, end=1.0, rtol=1e-7, atol=1e-7)
    wanted = end.mean + end.std / start.std * (x - start.mean)
    torch.testing.assert_close(latent, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sde", SDES[:3], ids=lambda sde: type(sde).__name__)
def test_samples_have_the_law_and_its_moments(sde):
    score = Counted(oracle(PLANE, sde))
    x = ode_sample(sde, score, (2000, 2), generator=seeded(), dtype=torch.float64)
    assert min(PLANE.ks(x, u) for u in ([1, 0], [0, 1], [0.6, -0.8])) > 1e-3
    torch.testing.assert_close(x.mean(0), PLANE.mean, atol=0.04, rtol=0)
    torch.testing.assert_close(x.T.cov(), PLANE.covariance, atol=0.03, rtol=0)
    assert score.calls < 400


def test_samples_are_a_function_of_the_start():
    score = oracle(LINE, VPSDE())
    a, b, c = (ode_sample(VPSDE(), score, (4, 1), generator=seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    x_1 = VPSDE().prior((4, 1)).sample(seeded(0))
    assert torch.equal(ode_sample(VPSDE(), score, (4, 1), x_1=x_1), a)


# ---- mistakes


def test_mistakes_are_one_line():
    score, x = oracle(LINE, VPSDE()), LINE.sample(2, seeded())
    for options, message in (
        ({"probes": 0}, "probes is 0"),
        ({"probe": "normal"}, "probe is 'normal'"),
        ({"start": 0.0}, "end is 0|start is 0"),
        ({"rtol": 0.0}, "rtol is 0"),
        ({"levels": 1}, "levels is 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            log_likelihood(VPSDE(), score, x, **options)
    with pytest.raises(ConfigError, match="choose two times"):
        transport(VPSDE(), score, x, start=0.5, end=0.5)


def test_a_network_that_gives_nan_is_named():
    score = oracle(LINE, VPSDE(), lambda x, t: x * math.nan)
    with pytest.raises(ConfigError, match="check the network's output") as caught:
        transport(VPSDE(), score, LINE.sample(2, seeded()), start=1.0, end=1e-3)
    assert "\n" not in str(caught.value)

r"""DDPM: Gaussian diffusion of real-valued data under any schedule.

.. math:: x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon, \qquad
          \alpha_{t|s} = \bar\alpha_t / \bar\alpha_s, \quad \beta_{t|s} = 1 - \alpha_{t|s}

Steps are pairs s < t, so a chain on a subset of the times needs no "respaced" schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from d3pm.data.base import Codec
from d3pm.distributions import DiscretizedNormal, Normal, safe_divide
from d3pm.errors import ConfigError, D3PMError
from d3pm.gaussian.threshold import Clip, Threshold
from d3pm.process import Process
from d3pm.schedules import CosineSchedule, Schedule
from d3pm.tables import Table

Prediction = Literal["eps", "x0", "v", "mean"]
Variance = Literal["fixed_large", "fixed_small", "learned_range"]
Decoder = Literal["exact", "tanh"]


class GaussianDiffusion(Process):
    r"""Gaussian diffusion of float data (B, C, \*); the network's output has the data's shape, or twice its channels.

    What the network says is named by ``prediction``; each is an affine map of :math:`x_0` given :math:`x_t`:

    - ``"eps"``: :math:`\epsilon = (x_t - \sqrt{\bar\alpha_t}\, x_0) / \sqrt{1 - \bar\alpha_t}`;
    - ``"x0"``: the data itself;
    - ``"v"``: :math:`\sqrt{\bar\alpha_t}\, \epsilon - \sqrt{1 - \bar\alpha_t}\, x_0`;
    - ``"mean"``: the posterior mean of :math:`x_{t-1}`.

    The reverse step is :math:`\mathcal N(\tilde\mu(\hat x_0, x_t), \sigma^2)` with, for :math:`\sigma^2`,
    :math:`\beta_{t|s}` (``"fixed_large"``), :math:`\tilde\beta_{t|s}` (``"fixed_small"``), or
    :math:`\beta^f \tilde\beta^{1-f}` with :math:`f = (v + 1)/2` from the output's second half of channels
    (``"learned_range"``). :math:`\tilde\beta` is 0 at s = 0; the decoder's variance there is that of the pair
    (t, 2t): at t = 1 it is Ho et al.'s :math:`\tilde\beta_2`, in a strided chain that of its second step.

    At s = 0 the law of a picture is discretized into its levels, and :meth:`step` shows its mean.
    Float times lie between whole ones; there the angle :math:`\arccos\sqrt{\bar\alpha}` is interpolated.
    Tables are float64; what involves data or output has its dtype, float32 at least.

    Args:
        schedule: :math:`\bar\alpha`.
        num_steps: T.
        prediction: What the network says.
        variance: Of the reverse step.
        threshold: Keeps :math:`\hat x_0` in [-1, 1]: :class:`~d3pm.gaussian.threshold.Clip`, another, or None.
            Gradients pass it as if it were not there: where it cuts, a network could not learn otherwise.
        levels: Values an entry of a picture takes, evenly in [-1, 1]; None for continuous data of any range,
            whose :math:`L_0` is a density (then take ``threshold=None`` too, unless it lies in [-1, 1]).
        decoder: Form of the discretized law: exact, or the published tanh approximation, for parity.
        checked: Whether data outside [-1, 1] is refused. None checks on the CPU only: elsewhere the check would
            make the device wait for the host.

    Raises:
        ConfigError: If a name is unknown, the schedule does not fit, or ``"eps"`` is asked for where
            :math:`\bar\alpha_T = 0`: the noise says nothing about the data there.

    References:
        Ho et al., *Denoising Diffusion Probabilistic Models*, 2020; Nichol and Dhariwal, *Improved DDPM*, 2021,
        section 3.1 (learned range); Salimans and Ho, *Progressive Distillation*, 2022, section 4 (v).

    >>> process = GaussianDiffusion(CosineSchedule(), num_steps=1000)
    >>> x0, t = torch.zeros(2, 1, 4, 4), torch.tensor([0, 500])
    >>> process.marginal(x0, t).std[:, 0, 0, 0]
    tensor([0.0000, 0.7114])
    """

    fractional: ClassVar[bool] = True

    def __init__(
        self,
        schedule: Schedule,
        num_steps: int = 1000,
        prediction: Prediction = "eps",
        variance: Variance = "fixed_small",
        threshold: Threshold | None = Clip(),  # noqa: B008 # a frozen value
        levels: int | None = 256,
        decoder: Decoder = "exact",
        checked: bool | None = None,
    ) -> None:
        _one_of("prediction", prediction, get_args(Prediction))
        _one_of("variance", variance, get_args(Variance))
        _one_of("decoder", decoder, get_args(Decoder))
        if levels is not None and levels < 2:
            raise ConfigError(f"levels is {levels}: give 2 or more, or null for continuous data")
        self.schedule, self.num_steps = schedule, num_steps
        self.prediction, self.variance = prediction, variance
        self.threshold, self.levels, self.decoder, self.checked = threshold, levels, decoder, checked
        alpha_bars = schedule.alpha_bars(num_steps)
        self.ends_without_signal = float(alpha_bars[-1]) <= 0
        self._check_schedule(alpha_bars)
        self._alpha_bars = Table(alpha_bars)
        self._angles = Table(angle(alpha_bars))

    @classmethod
    def example(cls) -> Sequence[GaussianDiffusion]:
        """Each prediction and each variance."""
        kinds: list[tuple[Prediction, Variance]] = [
            ("eps", "fixed_large"),
            ("x0", "fixed_small"),
            ("v", "learned_range"),
            ("mean", "fixed_small"),
        ]
        return [cls(CosineSchedule(), 5, prediction, variance) for prediction, variance in kinds]

    # The tables

    def alpha_bar(self, t: Tensor) -> Tensor:
        r""":math:`\bar\alpha_t`, float64 (B,), at whole or fractional times (B,)."""
        if not t.is_floating_point():
            return self._alpha_bars[t]
        below = t.floor().long().clamp(0, self.num_steps - 1)
        share = t.double() - below
        between = torch.lerp(self._angles[below], self._angles[below + 1], share).cos() ** 2
        # At whole times the table itself: the cosine of a right angle is not quite 0.
        between = torch.where(share == 0, self._alpha_bars[below], between)
        return torch.where(share == 1, self._alpha_bars[below + 1], between)

    def time(self, alpha_bar: Tensor) -> Tensor:
        r"""The fractional time of a noise level, float64 (B,): the inverse of :meth:`alpha_bar`.

        A level beyond the schedule's last one is given T.
        """
        angles = self._angles.on(alpha_bar.device)
        wanted = angle(alpha_bar.double())
        above = torch.searchsorted(angles, wanted).clamp(1, self.num_steps)
        share = safe_divide(wanted - angles[above - 1], angles[above] - angles[above - 1])
        return above - 1 + share.clamp(0, 1)

    def variances(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\beta_{t|s}` and :math:`\tilde\beta_{t|s}`, float64 (B,); the decoder's for the latter at s = 0."""
        at_s, at_t, later = (
            self.alpha_bar(s),
            self.alpha_bar(t),
            self.alpha_bar((2 * t).clamp(max=self.num_steps)),
        )
        beta = 1 - safe_divide(at_t, at_s)
        later = torch.where(2 * t > self.num_steps, 0.0, later)
        decoder = (1 - at_t) * (1 - safe_divide(later, at_t)) / (1 - later)
        return beta, torch.where(s == 0, decoder, beta * (1 - at_s) / (1 - at_t))

    # The laws

    def prior(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Normal:
        """See the base class: the standard Gaussian, float32."""
        return Normal(torch.zeros(tuple(shape), device=device), torch.ones((), device=device))

    def marginal(self, x0: Tensor, t: Tensor) -> Normal:
        r"""See the base class: :math:`\mathcal N(\sqrt{\bar\alpha_t}\, x_0, 1 - \bar\alpha_t)`.

        Raises:
            D3PMError: In checked mode, if a picture is not float or leaves [-1, 1].
        """
        self._check_data(x0)
        alpha_bar = self.alpha_bar(t)
        return Normal(like(alpha_bar.sqrt(), x0) * x0, like((1 - alpha_bar).sqrt(), x0))

    def posterior(self, x0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Normal:
        r"""See the base class: :math:`\mathcal N(\tilde\mu, \tilde\beta)`, without spread at s = 0."""
        variance = torch.where(s == 0, 0.0, self.variances(s, t)[1])
        return Normal(self._posterior_mean(x0, x_t, s, t), like(variance.sqrt(), x_t))

    def predict(self, output: Tensor, x_t: Tensor, t: Tensor) -> Normal:
        """See the base class: the reverse step to s = 0."""
        return self.reverse(output, x_t, torch.zeros_like(t), t)

    def reverse(self, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Normal:
        """See the base class; a picture's levels at s = 0."""
        mean = self._posterior_mean(self.denoise(output, x_t, t), x_t, s, t)
        return self.decoded(mean, self._std(output, x_t, s, t), s)

    def decoded(self, mean: Tensor, std: Tensor, s: Tensor) -> Normal:
        """A Gaussian step to s, discretized where it reaches a picture."""
        if self.levels is None:
            return Normal(mean, std)
        return DiscretizedNormal(mean, std, self.levels, self.decoder, where=spread(s == 0, mean))

    def step(
        self, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """See the base class; at s = 0 the mean without noise, as Ho et al. show it."""
        law = self.reverse(output, x_t, s, t)
        return torch.where(spread(s == 0, x_t), law.mean, law.sample(generator))

    def hold(
        self, x_s: Tensor, x0: Tensor, known: Tensor, s: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """See the base class; what is not known may be anything."""
        return super().hold(x_s, torch.where(known, x0, torch.zeros_like(x0)), known, s, generator)

    # What the network says

    def split(self, output: Tensor, x_t: Tensor) -> tuple[Tensor, Tensor | None]:
        """The prediction and, for a learned variance, the v of each entry; both in the shape of x_t.

        Raises:
            ConfigError: If the output has other channels than this process reads.
        """
        channels = x_t.shape[1]
        wanted = 2 * channels if self.variance == "learned_range" else channels
        if output.shape != (len(x_t), wanted, *x_t.shape[2:]):
            raise ConfigError(
                f"the network's output has shape {tuple(output.shape)}, but variance={self.variance!r} and data "
                f"{tuple(x_t.shape)} need {(len(x_t), wanted, *x_t.shape[2:])}: set its out_channels"
            )
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        return output[:, :channels], output[:, channels:] if wanted > channels else None

    def denoise(self, output: Tensor, x_t: Tensor, t: Tensor, threshold: bool = True) -> Tensor:
        r"""The estimate :math:`\hat x_0` in the output, thresholded unless asked not to."""
        of_x0, of_x_t = self.affine(t, x_t)
        x0 = (self.split(output, x_t)[0] - of_x_t * x_t) / of_x0
        if self.threshold is None or not threshold:
            return x0
        return x0 + (self.threshold(x0.detach()) - x0).detach()

    def target(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """What the network should say: the inverse of :meth:`denoise`."""
        of_x0, of_x_t = self.affine(t, x_t)
        return of_x0 * x0 + of_x_t * x_t

    def noise(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        r""":math:`\epsilon` that leads from x0 to x_t."""
        alpha_bar = self.alpha_bar(t)
        return (x_t - like(alpha_bar.sqrt(), x_t) * x0) / like((1 - alpha_bar).sqrt(), x_t)

    def affine(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients (p, q) of the prediction p x_0 + q x_t, to be broadcast."""
        alpha_bar = self.alpha_bar(t)
        kept, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        match self.prediction:
            case "eps":
                p, q = -kept / noise, 1 / noise
            case "x0":
                p, q = torch.ones_like(kept), torch.zeros_like(kept)
            case "v":
                p, q = -1 / noise, kept / noise
            case "mean":
                p, q = self._of_mean((t - 1).clamp(min=0), t)
        return like(p, x), like(q, x)

    def _of_mean(self, s: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        r"""Coefficients of x_0 and x_t in :math:`\tilde\mu`, float64 (B,)."""
        at_s, at_t = self.alpha_bar(s), self.alpha_bar(t)
        alpha = safe_divide(at_t, at_s)
        return at_s.sqrt() * (1 - alpha) / (1 - at_t), alpha.sqrt() * (1 - at_s) / (1 - at_t)

    def _posterior_mean(self, x0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        of_x0, of_x_t = self._of_mean(s, t)
        return like(of_x0, x_t) * x0 + like(of_x_t, x_t) * x_t

    def _std(self, output: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        beta, small = self.variances(s, t)
        match self.variance:
            case "fixed_large":
                return like(torch.where(s == 0, small, beta).sqrt(), x_t)
            case "fixed_small":
                return like(small.sqrt(), x_t)
        v = self.split(output, x_t)[1]
        assert v is not None
        log_large, log_small = like(beta.log(), v), like(small.log(), v)
        share = (v + 1) / 2
        return (0.5 * (share * log_large + (1 - share) * log_small)).exp()

    # What does not fit

    def check_network(self, network: torch.nn.Module, shape: Sequence[int]) -> None:
        """Refuse a network of other channels, or another size, than the data and the variance need."""
        if not shape:
            return
        wanted = shape[0] * (2 if self.variance == "learned_range" else 1)
        size = getattr(network, "size", None)
        square = len(set(shape[1:])) == 1 and not isinstance(size, (list, tuple))
        sides = shape[-1] if square else tuple(shape[1:])
        for name, value in (("in_channels", shape[0]), ("out_channels", wanted), ("size", sides)):
            given = getattr(network, name, None)
            given = tuple(given) if isinstance(given, list) else given
            if given is not None and given != value:
                raise ConfigError(
                    f"network.{name} is {given}, but data of shape {tuple(shape)} and variance={self.variance!r} "
                    f"need {value}: set it so"
                )

    def check_codec(self, codec: Codec) -> None:
        """Refuse symbols, and pictures of another number of levels."""
        if not codec.real:
            raise ConfigError(
                "process is a GaussianDiffusion, but the data are symbols: take a DiscreteDiffusion, or pictures"
            )
        if self.levels is not None and codec.num_symbols != self.levels:
            raise ConfigError(
                f"process.levels is {self.levels}, but the data has {codec.num_symbols} levels: make them equal"
            )

    def _check_schedule(self, alpha_bars: Tensor) -> None:
        if not bool((alpha_bars[1:] < alpha_bars[:-1]).all()):
            t = int((alpha_bars[1:] >= alpha_bars[:-1]).nonzero()[0]) + 1
            raise ConfigError(
                f"schedule: alpha_bar does not fall at t={t}, where a step would add no noise: take fewer steps or "
                "another schedule"
            )
        if self.prediction == "eps" and self.ends_without_signal:
            raise ConfigError(
                f"prediction is 'eps', but {type(self.schedule).__name__} ends at alpha_bar 0, where the noise says "
                "nothing about the data: take 'v' or 'x0', or a schedule that ends above 0"
            )

    def _check_data(self, x0: Tensor) -> None:
        if not x0.is_floating_point():
            raise D3PMError(
                f"x0 is {x0.dtype}: give floats, pictures as 2 v / {(self.levels or 256) - 1} - 1"
            )
        on_cpu = x0.device.type == "cpu" and not torch.compiler.is_compiling()
        if self.levels is None or not (self.checked or (self.checked is None and on_cpu)) or not x0.numel():
            return
        low, high = (float(edge) for edge in torch.aminmax(x0))
        if not (low >= -1 - 1e-4 and high <= 1 + 1e-4):
            raise D3PMError(
                f"x0 has values from {low:.4g} to {high:.4g}: scale pictures to [-1, 1], or give levels=None for "
                "data of another range"
            )


def angle(alpha_bar: Tensor) -> Tensor:
    r""":math:`\arccos \sqrt{\bar\alpha}`, accurate at both ends: 0 is data, a right angle is noise."""
    return torch.atan2((1 - alpha_bar).sqrt(), alpha_bar.sqrt())


def gaussian(process: Process, wanted_by: object, instead: str) -> GaussianDiffusion:
    """The process, refused (ConfigError) if it is of the other wing."""
    if not isinstance(process, GaussianDiffusion):
        raise ConfigError(
            f"{type(wanted_by).__name__} needs a GaussianDiffusion, and the process is a {type(process).__name__}: "
            f"use {instead}"
        )
    return process


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} is {value!r}: choose one of {', '.join(known)}")


def spread(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B, 1, ...), to be broadcast against ``like``."""
    return values.view(-1, *[1] * (like.dim() - 1))


def like(values: Tensor, like: Tensor) -> Tensor:
    """The same in the precision of ``like``, float32 at least."""
    dtype = torch.promote_types(like.dtype, torch.float32) if like.is_floating_point() else torch.float32
    return spread(values.to(dtype), like)

r"""Two numbers for every entry, not one a level: a logistic law over ordered levels, cut off at both ends."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3pm.networks.pixels import PixelHead

SHARPNESS = 2.0
"""Taken off the log-scale: an output of zero means a scale of 0.135, a fifteenth of the way from black to white."""

BEYOND = 40.0
"""How many scales beyond the end of the last level the law stops changing: what is left is exp(-40)."""


class TruncatedLogistic(PixelHead):
    r"""A network for images whose output, a place and a log-scale for each entry, is read as logits of its levels.

    .. math::
        \ell_k = \log\big[\sigma((c_k + \tfrac w2 - \mu)\, e^{-s}) - \sigma((c_k - \tfrac w2 - \mu)\, e^{-s})\big],
        \qquad c_k = k w - 1, \quad w = \tfrac{2}{\text{levels} - 1}

    Levels near :math:`\mu` are likely together, which a network with a logit for each has to learn. With :math:`x_t`
    as a value in [-1, 1] (0 for a mask), :math:`\mu = x_t + ` the first output and :math:`s` = the second one - 2, so a
    network whose output is zero believes in what it sees, to within a few levels. Outputs 2 c and 2 c + 1 are those of
    channel c.

    The authors keep :math:`\mu` within the levels by :math:`\tanh(\mu' + x_t)`, which moves black and white far from
    the ends; here it is free, since the law has a limit on either side and is computed without loss up to there.

    Args:
        network: For images, with ``out_channels`` twice the picture's channels, and ``in_channels`` the picture's
            channels, twice as many with a mask.
        num_states: K, the mask included where there is one.
        num_levels: Grey levels: K - 1 if the last state is a mask. None means K: there is no mask.

    Raises:
        ConfigError: If the channels of ``network`` do not fit; when called, if pictures or labels do not.

    References:
        Austin et al., *Structured Denoising Diffusion Models in Discrete State-Spaces*, 2021, appendix A.8.

    >>> from d3pm.networks import UNetDenoiser
    >>> within = UNetDenoiser(size=8, in_channels=1, out_channels=2, channels=(16,), attention_at=(), layers=1)
    >>> network = TruncatedLogistic(within, num_states=256)
    >>> logits = network(torch.full((2, 1, 8, 8), 77), torch.tensor([1, 100]))
    >>> logits.shape, logits.argmax(-1).unique()
    (torch.Size([2, 1, 8, 8, 256]), tensor([77]))
    """

    def __init__(self, network: nn.Module, num_states: int, num_levels: int | None = None) -> None:
        super().__init__(network, num_states, num_levels, outputs=2)

    def logits(self, output: Tensor, x_t: Tensor) -> Tensor:
        """See the base class; float32 at least."""
        output = output.to(torch.promote_types(output.dtype, torch.float32))
        shift, log_scale = output.unbind(-1)
        return logistic_logits(self.values(x_t, output.dtype) + shift, log_scale - SHARPNESS, self.levels)


def logistic_logits(place: Tensor, log_scale: Tensor, levels: int) -> Tensor:
    r"""Log-masses of even ``levels`` in [-1, 1] under logistic laws (\*), up to a constant for each: (\*, levels).

    .. math:: \log[\sigma(a) - \sigma(b)] = \log \sigma(a) + \log \sigma(-b) + \log(1 - e^{b - a})

    where a - b is the same for every level, so a softmax drops the last term, and what is left is a sum: nothing
    cancels, however small a mass is. Finite, with finite gradients, for any finite place and scale: a scale below what
    the dtype can tell apart in [-1, 1] is taken for that one (its gradient stays, so that it can grow again), and a
    place from which the law looks as from infinity for the nearest such place. O(levels) an entry.

    >>> logistic_logits(torch.tensor(0.5), torch.tensor(-5.0), levels=3).softmax(-1)
    tensor([0.0000, 0.5000, 0.5000])
    """
    finest = math.log(torch.finfo(log_scale.dtype).eps)
    log_scale = log_scale + (log_scale.clamp(min=finest) - log_scale).detach()
    steepness = torch.exp(-log_scale)
    last = 1 + 1 / (levels - 1)  # where the last level ends
    far = last + BEYOND / steepness.detach()  # infinite where there is no steepness, which bounds nothing
    centers = torch.arange(1 - levels, levels, 2, dtype=place.dtype, device=place.device) / (levels - 1)
    z = (centers - place.clamp(-far, far).unsqueeze(-1)) * steepness.unsqueeze(-1)
    half = steepness.unsqueeze(-1) / (levels - 1)
    return F.logsigmoid(z + half) + F.logsigmoid(half - z)

"""A logit for every grey level: what can be said of any categories, in order or not."""

import torch
from torch import Tensor, nn

from d3pm.networks.pixels import PixelHead


class PixelLogits(PixelHead):
    """A network for images that gives each level of each channel a logit of its own.

    One is added to the logit of the level that an entry shows, so a network whose output is zero already
    believes in what it sees. Output channel c K' + k, with K' levels, is level k of channel c: K' convolution
    filters for each channel of the picture, and O(B C H W K) memory.

    Args:
        network: For images, with ``out_channels`` the picture's channels times the number of levels, and
            ``in_channels`` the picture's channels, twice as many with a mask.
        num_states: K, the mask included where there is one.
        num_levels: Grey levels: K - 1 if the last state is a mask. None means K: there is no mask.

    Raises:
        ConfigError: If the channels of ``network`` do not fit; when called, if pictures or labels do not.

    References:
        Austin et al., *Structured Denoising Diffusion Models in Discrete State-Spaces*, 2021, section 5.2.

    >>> from d3pm.networks import UNetDenoiser
    >>> within = UNetDenoiser(size=8, in_channels=1, out_channels=17, channels=(16,), attention_at=(), layers=1)
    >>> network = PixelLogits(within, num_states=17)
    >>> logits = network(torch.full((2, 1, 8, 8), 3), torch.tensor([1, 100]))
    >>> logits.shape, logits.argmax(-1).unique()
    (torch.Size([2, 1, 8, 8, 17]), tensor([3]))
    """

    def __init__(self, network: nn.Module, num_states: int, num_levels: int | None = None) -> None:
        super().__init__(network, num_states, num_levels, outputs=num_levels or num_states)

    def logits(self, output: Tensor, x_t: Tensor) -> Tensor:
        """See the base class; a fresh tensor with the levels of an entry side by side in memory."""
        logits = output.clone(memory_format=torch.contiguous_format)
        shown = x_t.unsqueeze(-1)
        return logits.scatter_add_(
            -1, shown.clamp(max=self.levels - 1), (shown < self.levels).to(logits.dtype)
        )

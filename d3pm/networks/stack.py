"""A stack of blocks over a row of tokens: what transformers over states share between embedding and head."""

import torch
from torch import Tensor, nn

from d3pm.networks.blocks import keep_mask, modulate, segment_mask, segment_places
from d3pm.networks.rotary import Rotation, rotary_table


class Stack(nn.Module):
    """Base of networks that hold ``blocks``, a final ``norm`` and, where conditioned, its ``modulation``.

    Subclasses make these parts, and set ``dim`` and ``heads``; nothing is made here, so that the parameters of each
    network keep their names and their order.
    """

    dim: int
    heads: int
    blocks: nn.ModuleList
    norm: nn.LayerNorm
    modulation: nn.Linear | None

    def in_order(
        self,
        x: Tensor,
        cond: Tensor | None,
        attention_mask: Tensor | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Tokens (B, L, dim) that know their places, by rotary positions; those masked with 0 are not looked at.

        Of rows that hold several documents, ``segments`` (B, L) says which entry is whose: each document is then looked
        at as if it were alone, its first token at place 0. The entries of one lie together.
        """
        dtype = torch.promote_types(x.dtype, torch.float32)
        if segments is None:
            places = torch.arange(x.shape[1], device=x.device)
            keep = None if attention_mask is None else keep_mask(attention_mask)
        else:
            places, keep = segment_places(segments), segment_mask(segments, attention_mask)
        return self.through(x, cond, rotary_table(places.to(dtype), self.dim // self.heads), keep)

    def through(
        self, x: Tensor, cond: Tensor | None, rotation: Rotation | None = None, keep: Tensor | None = None
    ) -> Tensor:
        """Tokens (B, L, dim) through all blocks and the norm, conditioned on (B, cond_dim) if on anything."""
        for block in self.blocks:
            x = block(x, cond, rotation, keep)
        x = self.norm(x)
        if self.modulation is None:
            return x
        shift, scale = self.modulation(cond).unsqueeze(-2).chunk(2, dim=-1)
        return modulate(x, shift, scale)

"""A diffusion transformer: images cut into patches, and the blocks of the transformer over rows of states."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d3pm.errors import ConfigError
from d3pm.networks.blocks import Block, modulate, zeroed
from d3pm.networks.images import check_images, check_least
from d3pm.networks.labels import Labels
from d3pm.networks.rotary import Rotation, rotary_table
from d3pm.networks.time_embedding import TimeEmbedding

COND_DIM = 128  # as wide as the time's vector in TransformerDenoiser, and wide enough for labels


class ImageTransformer(nn.Module):
    """Transformer over the patches of an image: every patch sees every other.

    Time and class enter by adaptive layer norm (adaLN-Zero), the place of a patch by rotary positions, half
    of the channels turned by its row and half by its column, and by a learned vector. Output is exactly zero
    at first. Attention costs O((size / patch)⁴ dim) an image.

    Args:
        size: Height and width of an image.
        in_channels: Channels of an image.
        out_channels: Channels of the output; None means ``in_channels``.
        patch: Height and width of a patch; divides ``size``.
        dim: Width of a token; a multiple of ``4 * heads``.
        depth: Number of blocks.
        heads: Attention heads.
        mlp_ratio: Hidden width of the perceptrons, in units of ``dim``.
        dropout: Probability with which an entry of what a branch adds is dropped.
        num_classes: Classes the network can be told, a null class besides them (see `Labels`).
        label_drop: Probability with which a label is hidden in training.

    Raises:
        ConfigError: If a number is out of range, ``patch`` does not divide ``size``, or ``dim`` does not fall
            into heads; when called, if images or labels do not fit.

    References:
        Peebles and Xie, *Scalable Diffusion Models with Transformers*, 2022.

    >>> network = ImageTransformer(size=28, in_channels=1, patch=4, dim=32, depth=1, heads=2, num_classes=10)
    >>> network(torch.randn(3, 1, 28, 28), torch.tensor([1, 500, 1000]), labels=torch.tensor([3, 1, 4])).shape
    torch.Size([3, 1, 28, 28])
    """

    def __init__(
        self,
        size: int = 32,
        in_channels: int = 3,
        out_channels: int | None = None,
        patch: int = 2,
        dim: int = 256,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: float = 4,
        dropout: float = 0.0,
        num_classes: int | None = None,
        label_drop: float = 0.1,
    ) -> None:
        super().__init__()
        self.size = size
        self.in_channels = in_channels
        self.out_channels = in_channels if out_channels is None else out_channels
        self.patch = patch
        self.dim = dim
        self.depth = depth
        self.heads = heads
        self.mlp_ratio = mlp_ratio
        self.dropout = dropout
        self.num_classes = num_classes
        self.label_drop = label_drop
        self._check()

        self.labels = Labels(num_classes, label_drop)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio, dropout, COND_DIM) for _ in range(depth))
        self.embedding = nn.Linear(in_channels * patch**2, dim)
        self.positions = nn.Parameter(torch.zeros((size // patch) ** 2, dim))
        self.time_embedding = TimeEmbedding(COND_DIM)
        self.label_embedding = None if num_classes is None else nn.Embedding(num_classes + 1, COND_DIM)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(COND_DIM, 2 * dim))
        self.head = zeroed(nn.Linear(dim, self.out_channels * patch**2))

    def forward(self, x_t: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Output (B, out_channels, H, W) for images x_t (B, in_channels, H, W) at times t (B,), int or float.

        ``labels`` (B,): the class of each image; None means the null class for all.
        """
        check_images(x_t, self.in_channels, self.size)
        x_t = x_t.to(self.embedding.weight.dtype)  # a process speaks float32 at least
        x = self.embedding(to_patches(x_t, self.patch)) + self.positions
        rotation = self._rotation(x)
        cond = self._cond(t, self.labels(labels, x_t))
        for block in self.blocks:
            x = block(x, cond, rotation)
        shift, scale = self.modulation(cond).unsqueeze(-2).chunk(2, dim=-1)
        return from_patches(self.head(modulate(self.norm(x), shift, scale)), self.patch, self.size)

    def _rotation(self, x: Tensor) -> Rotation:
        dtype = torch.promote_types(x.dtype, torch.float32)
        places = torch.arange(self.size // self.patch, device=x.device, dtype=dtype)
        return grid_table(places, self.dim // self.heads)

    def _cond(self, t: Tensor, labels: Tensor | None) -> Tensor:
        time = self.time_embedding(t)
        return time if self.label_embedding is None else F.silu(time + self.label_embedding(labels))

    def _check(self) -> None:
        names = ("size", "in_channels", "out_channels", "patch", "dim", "depth", "heads")
        check_least(**{name: getattr(self, name) for name in names})
        if self.size % self.patch:
            raise ConfigError(f"patch={self.patch} does not divide size={self.size}: take one that does")
        if self.dim % (4 * self.heads):
            raise ConfigError(
                f"dim={self.dim} does not fall into heads={self.heads} heads whose channels rows and columns "
                f"can turn in pairs: take a multiple of {4 * self.heads}"
            )


def to_patches(x: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) -> (B, H W / patch², C patch²), row by row."""
    x = x.unflatten(-1, (-1, patch)).unflatten(-3, (-1, patch))
    return x.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def from_patches(x: Tensor, patch: int, size: int) -> Tensor:
    """The inverse of `to_patches` for square images.

    >>> x = torch.randn(2, 3, 6, 6)
    >>> torch.equal(from_patches(to_patches(x, 2), 2, 6), x)
    True
    """
    x = x.unflatten(1, (size // patch, -1)).unflatten(-1, (-1, patch, patch))
    return x.permute(0, 3, 1, 4, 2, 5).flatten(-2).flatten(-3, -2)


def grid_table(places: Tensor, head_dim: int) -> Rotation:
    """What `rotary_table` is for a row, for a square grid (L, L): half of the pairs turn with the row of an
    entry, half with its column. Tables are (L², head_dim).
    """
    rows, columns = (p.flatten() for p in torch.meshgrid(places, places, indexing="ij"))
    by_row, by_column = (rotary_table(p, head_dim // 2, base=100.0) for p in (rows, columns))
    cos, sin = (torch.cat((r, c), -1) for r, c in zip(by_row, by_column, strict=True))
    halves = (table.unflatten(-1, (2, 2, -1)).transpose(-3, -2).flatten(-3) for table in (cos, sin))
    return next(halves), next(halves)

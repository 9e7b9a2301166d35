"""Texts of any length, drawn block by block."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from d3pm.cli.forms import Draw
from d3pm.errors import ConfigError
from d3pm.parallel import dealt
from d3pm.sampling import Samples


@dataclass(kw_only=True)
class BlockDraw(Draw):
    """Draws rows by :func:`~d3pm.discrete.blocks.extend`.

    Attributes:
        length: Of a row.
        block: New entries at a time.
        context: Entries before them that are seen.
    """

    length: int
    block: int
    context: int

    def batches(self, num: int, **more: Any) -> Iterator[Samples]:
        """See the base class."""
        from d3pm.discrete.blocks import extend

        options = self.options | self.classes(num) | more
        network = self.sharpened(options.pop("network", None))
        seed, size, _ = options.pop("seed"), options.pop("batch_size"), options.pop("shape", None)
        for n, mine in dealt(num, size, options, seed=seed, team=self.team):
            yield extend(
                self.model.process,
                network,
                (n, self.length),
                block=self.block,
                context=self.context,
                device=self.model.device,
                **mine,
            )


def lengthened(draw: Draw, length: int, block: int | None, context: int | None) -> Draw:
    """The draw itself where a sample of this length is drawn at once, else block by block.

    A block is half of what the model was trained on if nobody says, and its context the rest.

    Raises:
        ConfigError: If block and context do not go into what the model was trained on, or one block is all.
    """
    (trained,) = draw.model.shape
    if block is None and length <= trained:
        if context is not None:
            raise ConfigError(f"--context is {context}, but nothing is drawn block by block: give --block")
        return draw
    if type(draw) is not Draw:
        raise ConfigError(
            "--block and --classifier do not go together: a classifier knows whole samples only"
        )
    block = max(trained // 2, 1) if block is None else block
    if not 1 <= block < trained:
        raise ConfigError(
            f"--block is {block}, but the model was trained on {trained} symbols: choose 1 … {trained - 1}"
        )
    context = trained - block if context is None else context
    if not 1 <= context <= trained - block:
        raise ConfigError(
            f"--context is {context}: beside a block of {block} the model sees {trained - block} symbols, choose "
            f"1 … {trained - block}"
        )
    if length <= block + context:
        raise ConfigError(
            f"--block is {block}, but beside a --context of {context} it holds the whole text of {length} symbols: "
            f"give a smaller --context, or a --length above {block + context}"
        )
    plain = {name: getattr(draw, name) for name in ("model", "network", "options", "labels", "sharp", "team")}
    return BlockDraw(**plain, length=length, block=block, context=context)

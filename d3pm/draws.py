r"""Random numbers of a whole batch, whichever part of it is at hand.

A step on 16 examples may be taken by one process, by two processes on 8 examples each, or by one that sees 8 and then
another 8. All of them should see the same times and the same noise. So whoever holds a part draws for all and keeps
the rows that are its own: :class:`Share` is a generator that knows which ones these are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import blake2b

import torch
from torch import Tensor

from d3pm.errors import D3PMError


class Share(torch.Generator):
    """A generator for rows ``first`` … ``first + rows - 1`` of a batch: they see what they would see in all of it.

    Everything in this package draws through the functions below, which heed it. Code that calls torch's own functions
    with it gets independent numbers, which depend on how the batch is split.

    Args:
        seed: Of the whole batch; a plain generator of this seed gives all rows what shares give their own.
        first: Where the rows at hand begin.
        rows: How many they are.
        batch: How many rows the whole batch has.
        device: Where numbers are drawn.

    Raises:
        D3PMError: If these rows are not in the batch.

    >>> size, cpu = torch.Size([2, 3]), torch.device("cpu")
    >>> halves = [uniforms(size, cpu, Share(7, first, rows=2, batch=4)) for first in (0, 2)]
    >>> torch.equal(torch.cat(halves), uniforms(torch.Size([4, 3]), cpu, torch.Generator().manual_seed(7)))
    True
    """

    def __new__(
        cls, seed: int, first: int, rows: int, batch: int, device: torch.device | str = "cpu"
    ) -> Share:
        """Made where it draws."""
        return super().__new__(cls, device=device)  # type: ignore[call-arg]

    def __init__(
        self, seed: int, first: int, rows: int, batch: int, device: torch.device | str = "cpu"
    ) -> None:
        if first < 0 or rows < 1 or first + rows > batch:
            raise D3PMError(f"rows {first} to {first + rows - 1} of {batch}: give rows that are in the batch")
        self.seed_of_all, self.first, self.rows, self.batch = seed, first, rows, batch
        self.whole = torch.Generator(device).manual_seed(seed)
        self.manual_seed(mixed(seed, first))


def mixed(*numbers: int) -> int:
    """One seed of several numbers, 63 bits: sets of numbers that differ anywhere give unrelated ones.

    >>> mixed(0, 1) == mixed(0, 1), mixed(0, 1) == mixed(1, 0)
    (True, False)
    """
    digest = blake2b(",".join(map(str, numbers)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


Where = tuple[int, slice, torch.Generator | None]


def whole(rows: int, generator: torch.Generator | None) -> Where:
    """The batch that ``rows`` rows at hand belong to: its size, which of it they are, and what draws for all of it.

    Raises:
        D3PMError: If the generator is a :class:`Share` of another number of rows: what is drawn must have the
            examples on its first axis.
    """
    if not isinstance(generator, Share):
        return rows, slice(None), generator
    if rows != generator.rows:
        raise D3PMError(
            f"a draw of {rows} rows from a share of {generator.rows} out of {generator.batch}: draw for the rows "
            "at hand, with the examples on the first axis"
        )
    return generator.batch, slice(generator.first, generator.first + rows), generator.whole


def uniforms(shape: torch.Size, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Float64 uniforms in [0, 1): 53 random bits, so that rare events keep their rate.

    They are drawn where the generator lives and moved, so a CPU generator serves any device.
    """
    return _drawn(partial(torch.rand, dtype=torch.float64), shape, device, generator)


def normals(
    shape: torch.Size, device: torch.device, generator: torch.Generator | None, dtype: torch.dtype
) -> Tensor:
    """Standard normal numbers, drawn likewise."""
    return _drawn(partial(torch.randn, dtype=dtype), shape, device, generator)


def integers(
    below: int, shape: torch.Size, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Int64 in 0 … ``below`` - 1, all alike, drawn likewise."""
    return _drawn(partial(torch.randint, below), shape, device, generator)


def _drawn(
    make: Callable[..., Tensor], shape: torch.Size, device: torch.device, generator: torch.Generator | None
) -> Tensor:
    source = device if generator is None else generator.device
    if not isinstance(generator, Share):
        return make(shape, generator=generator, device=source).to(device)
    batch, mine, everyone = whole(shape[0] if len(shape) else 0, generator)
    return make((batch, *shape[1:]), generator=everyone, device=source)[mine].to(device)


def evenly(batch: int, device: torch.device) -> Tensor:
    """0 … ``batch`` - 1 in an order of which parts are spread evenly too, int64: by their bits read backwards.

    Of a power of two the order's halves, quarters, … have one number in each of as many equal ranges as they are long.
    Of any other batch, up to 2,048 at least, a range holds at most 4 numbers more or less of a part (one that the batch
    is a multiple of) than it has in the mean.

    >>> evenly(8, torch.device("cpu"))
    tensor([0, 4, 2, 6, 1, 5, 3, 7])
    """
    forwards = torch.arange(batch, device=device)
    backwards = torch.zeros_like(forwards)
    for _ in range((batch - 1).bit_length()):
        backwards = 2 * backwards + forwards % 2
        forwards = forwards // 2
    return backwards.argsort().argsort()


class Streams:
    """Random numbers of walkers who need differently many: each has a stream of its own, whoever else walks.

    Args:
        keys: Where each stream begins, int64 (N,), any 64 bits; :meth:`begin` draws them.

    References:
        Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, 2014.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys

    @classmethod
    def begin(cls, like: Tensor, generator: torch.Generator | None) -> Streams:
        """One for each entry of ``like`` (B, \\*), flat; one draw from the generator."""
        return cls(integers(2**63 - 1, like.shape, like.device, generator).flatten())

    def __getitem__(self, which: Tensor) -> Streams:
        """Those of some of the walkers, as far as they have come."""
        return Streams(self.keys[which])

    def uniforms(self) -> Tensor:
        """The next number of each stream, float64 (N,) in [0, 1)."""
        self.keys = self.keys + _GOLDEN
        bits = self.keys
        for shift, factor in ((30, _FIRST), (27, _SECOND), (31, 1)):
            bits = (bits ^ _shifted(bits, shift)) * factor
        return _shifted(bits, 11).double() * 2.0**-53


def _signed(bits: int) -> int:
    return bits - 2**64 if bits >= 2**63 else bits


_GOLDEN, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def _shifted(bits: Tensor, by: int) -> Tensor:
    """To the right as unsigned numbers, which torch does not have."""
    return (bits >> by) & (2 ** (64 - by) - 1)

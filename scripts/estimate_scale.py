"""Memory a GPU and tokens a second of large networks, reckoned from their sizes: the tables of docs/scaling.md.

  python scripts/estimate_scale.py
  python scripts/estimate_scale.py --tokens 16384 --length 2048 --states 50258

Reckoned, not measured. Networks are d3pm.networks.TransformerDenoiser, float32 weights under bfloat16 autocast, AdamW
and a moving average; the formulas stand beside the numbers in docs/scaling.md. A test holds the counts of parameters
against real networks, and the activations against what a small network keeps.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

FLOAT, HALF = 4, 2
"""Bytes of a float32 and of a bfloat16."""
TIME = 128
"""Width of the vector that conditions the blocks, and of the sinusoids it is made of, halved."""
PEAK = 989e12
"""Dense bfloat16 operations a second of an H100 or H200 (SXM), as their maker states them."""
UTILISATION = 0.4
"""The share of them that is assumed."""
LINK = 50e9
"""Bytes a second that a GPU exchanges with those of other machines: 400 Gbit/s."""
CARDS = (80, 141)
"""GB of an H100 and an H200."""
USABLE = 0.9
"""Of a card, for the rest is the allocator's and the driver's."""
PIECE = 2**24
"""Logits that a loss multiplies out at once, at least (d3pm.deferred)."""
COPIES = 6
"""Float32 numbers that a loss holds for each of them."""
GB = 1e9


@dataclass(frozen=True)
class Size:
    """A network: its width d, its blocks and its states K."""

    dim: int
    depth: int
    states: int

    @property
    def heads(self) -> int:
        """Of 128 channels each, or 64 in small networks."""
        return self.dim // (64 if self.dim < 2048 else 128)

    @property
    def block(self) -> int:
        """Parameters of a block: 12 d² in matrices, biases, and the map from the conditioning vector."""
        return 12 * self.dim**2 + 5 * self.dim + 6 * self.dim * (TIME + 1)

    @property
    def rest(self) -> int:
        """Parameters outside the blocks: embedding, head, last modulation, time."""
        time = TIME * (2 * TIME + 1) + TIME * (TIME + 1)
        return self.states * (2 * self.dim + 1) + 2 * self.dim * (TIME + 1) + time

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.depth * self.block + self.rest

    def operations(self, length: int) -> float:
        """Floating-point operations a token of training: 6 a weight it is multiplied by, and attention's 12 L d."""
        weights = 12 * self.dim**2 * self.depth + self.states * self.dim
        return 6 * weights + 12 * length * self.dim * self.depth

    def layer(self, tokens: int, half: bool = True) -> float:
        """Bytes that a block keeps for the way back: 22 values a channel, 18 of them results of autocast's products."""
        return tokens * self.dim * (18 * (HALF if half else FLOAT) + 4 * FLOAT)

    def activations(self, tokens: int, recompute: bool = False) -> float:
        """Bytes kept for the way back at the most: of all blocks, or their inputs and one block; and the loss's."""
        inputs = FLOAT * tokens * self.dim
        kept = self.depth * inputs + self.layer(tokens) if recompute else self.depth * self.layer(tokens)
        return kept + 2 * inputs + COPIES * FLOAT * max(PIECE, tokens * self.dim)


SIZES = (
    Size(768, 12, 32768),
    Size(1024, 24, 32768),
    Size(2048, 24, 32768),
    Size(2560, 32, 32768),
    Size(4096, 32, 32768),
)


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU, apart from activations.

    Attributes:
        parameters: Weights in float32.
        gradients: Theirs; DDP keeps them twice, once in the buckets that it sends.
        adam: Two moments.
        average: The moving average.
        whole: What is there beside these: bfloat16 copies, and what FSDP2 has gathered.
    """

    parameters: float
    gradients: float
    adam: float
    average: float
    whole: float

    @classmethod
    def of(cls, size: Size, gpus: int = 1) -> "Memory":
        """DDP for ``gpus`` = 1, else FSDP2 over so many."""
        mine = FLOAT * size.parameters / gpus
        copies = HALF * size.parameters
        if gpus == 1:
            return cls(mine, 2 * mine, 2 * mine, mine, copies)
        gathered = 2 * FLOAT * size.rest + 3 * FLOAT * size.block
        return cls(mine, mine, 2 * mine, mine, copies + gathered)

    @property
    def total(self) -> float:
        """All of it."""
        return sum(vars(self).values())


def row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def head(*names: str) -> list[str]:
    return [row(*names), row(*["---"] * len(names))]


def name_of(size: Size) -> str:
    return f"{size.parameters / 1e9:.2f} B ({size.dim} x {size.depth})"


def fit(plain: float, recomputed: float) -> str:
    """The smallest card that will do."""
    for card in CARDS:
        for bytes_, how in ((plain, ""), (recomputed, ", recompute")):
            if bytes_ <= USABLE * card * GB:
                return f"{card} GB{how}"
    return "no"


def memory_table(tokens: int, sizes: tuple[Size, ...]) -> Iterator[str]:
    """GB on one GPU."""
    yield from head(
        "parameters (d x blocks)", "split", "weights", "gradients", "Adam", "average", "whole weights",
        "activations", "with recompute", "total", "with recompute", "fits",
    )  # fmt: skip
    for size in sizes:
        kept = [size.activations(tokens, recompute) for recompute in (False, True)]
        for gpus, split in ((1, "DDP"), (8, "FSDP2, 8"), (64, "FSDP2, 64")):
            memory = Memory.of(size, gpus)
            totals = [memory.total + some for some in kept]
            numbers = [*vars(memory).values(), *kept, *totals]
            yield row(name_of(size), split, *(f"{number / GB:.1f}" for number in numbers), fit(*totals))


def speed_table(length: int, sizes: tuple[Size, ...]) -> Iterator[str]:
    """Tokens a second, and when FSDP2's messages between machines take no longer than the arithmetic."""
    yield from head(
        "parameters (d x blocks)", "GFLOP a token", "tokens/s a GPU", "with recompute", "on 8 GPUs", "on 64 GPUs",
        "hours for 20 tokens a parameter on 8 GPUs", "on 64", "tokens a GPU that hide FSDP2's messages",
    )  # fmt: skip
    for size in sizes:
        operations = size.operations(length)
        speed = UTILISATION * PEAK / operations
        hours = [20 * size.parameters / (gpus * speed) / 3600 for gpus in (8, 64)]
        hidden = 3 * FLOAT * size.parameters / LINK * speed
        speeds = (f"{number:,.0f}" for number in (speed, speed * 3 / 4, 8 * speed, 64 * speed))
        times = (f"{time:.1f}" for time in hours)
        yield row(name_of(size), f"{operations / 1e9:.2f}", *speeds, *times, f"{hidden:,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=8192, help="a GPU sees at once: micro-batch x length")
    parser.add_argument("--length", type=int, default=1024, help="of a row, for attention")
    parser.add_argument("--states", type=int, default=32768, help="the vocabulary with the mask")
    args = parser.parse_args()
    sizes = tuple(Size(size.dim, size.depth, args.states) for size in SIZES)
    print(f"GB on each GPU, {args.tokens:,} tokens at once, K = {args.states:,}:\n")
    print("\n".join(memory_table(args.tokens, sizes)))
    print(f"\nTokens a second at {UTILISATION:.0%} of {PEAK / 1e12:.0f} TFLOP/s, rows of {args.length:,}:\n")
    print("\n".join(speed_table(args.length, sizes)))


if __name__ == "__main__":
    main()

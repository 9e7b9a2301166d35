"""The lowest held-out bits a character in a given time, from scratch, on one device: masks as the only noise.

    python scripts/speedrun_text8.py --run ours --minutes 25
    python scripts/speedrun_text8.py --run d3pm --minutes 25
    python scripts/speedrun_text8.py --run autoregressive --minutes 25
    OMP_NUM_THREADS=2 python scripts/speedrun_text8.py --run ours --minutes 60 --cpu [--pieces]

Three runs on equal time and equal text. ``ours`` is a `CharacterTransformer` under the absorbing kernel: Muon
and Adam, rates that fall by the clock, the number of masks stratified over the batch. ``d3pm`` is the
paper's: a transformer of 12 layers of 768 told the time, Adam at 5e-4 after a warm-up, L_lambda with lambda =
0.01, T = 1000, batches of 512 x 256, the weights of the last fiftieth of the steps averaged.
``autoregressive`` is the network of ``ours``, parameter by parameter, causal, under the same optimizer.
Minutes are of training, compilation included and scoring not; on a CPU they are processor time, all threads and
compilers together. Text is text8's split of 90/5/5, held on the device. With ``--pieces`` it is written in byte pairs
(scripts/pieces.py), which are found and counted on the clock, too. Scores stay bits a character; those of pieces are of
blocks of 256 characters, as `test_of_256` of every run is.

Scores are of blocks that know nothing of each other, their first characters included, cut from rows spread
evenly over the held-out text, the same for all runs; standard errors are over rows. ``ours``: the bound in
continuous time, which depends on no schedule (any i.i.d. masking gives every set of n masks alike, and the
integral over the time that n are masked is 1/n: so n is drawn, stratified over 1 ... L). ``d3pm``: its own
bound, T = 1000, which is higher by (CE(1) - CE(0)) / 2T for the same network, 0.002 bits. ``autoregressive``:
the likelihood itself.

The arithmetic of the large run. A matrix entry costs six operations a character, attention 12 L dim a block:
338 MFLOP a character at 10 blocks of 640 and L = 512. At 45 % of 800 TFLOP/s that is 1.07e6 characters a
second and 1.6e9 in 25 minutes: 18 times the training split, 32 a matrix entry, 5.4e17 operations in all.
Between 20 a parameter (the optimum of subword models, Hoffmann et al., 2022) and four times that (a character
says about a quarter of a subword) the loss is flat: 5.4e17 = 6 N D gives N = 67M and 33M there, and masks do
not wear out on text seen 18 times (Prabhudesai et al., 2025), as left-to-right prediction may: compare its
train and test. Muon's rate holds for all widths, Adam's falls with the root of the width. A batch of 2^17
characters makes 12,000 steps. Memory: 34 bytes an entry of (batch, length, dim) and block are 29 GB, for the
paper's network 41 GB and its adaptive norms another 15; gradients, weights and moments 1 GB. ``--set dim=512
depth=12`` and the like change it, and ``--steps 400`` makes runs that can be compared whatever else a machine does.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import lzma
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pieces import Pieces
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from d3pm import AbsorbingTransition, DiscreteDiffusion
from d3pm.data.normalize import TEXT8_ALPHABET
from d3pm.networks import CharacterTransformer, TransformerDenoiser
from d3pm.objectives import AuxiliaryBound, vlb_estimate

SPLITS = {"train": (0.0, 0.9), "validation": (0.9, 0.95), "test": (0.95, 1.0)}
NUM_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that may be changed about a run.

    Attributes:
        dim: Width.
        depth: Blocks.
        heads: Attention heads.
        block: Characters, or pieces, in a row.
        batch: Rows a step.
        rate: Peak learning rate of Adam.
        muon_rate: Peak learning rate of Muon on the matrices inside the blocks.
        warmup: Steps in which the rates rise.
        cooldown: Share of the time, at the end, in which they fall to 0.
        average: Share of the steps so far that the averaged weights look back on; 0 for the last weights.
        window: States of a window that is looked up.
        window_dim: Width of such a row.
        reach: Neighbours on either side that every branch is told of.
        tilt: A row with the share m of its characters masked counts m ** tilt times what it does in the bound, at
            first: 0 is the bound, 1 counts every masked character alike.
        last_tilt: The same in the end; in between it moves with the time.
        complement: Whether every text comes twice, masked where it is not masked the other time.
        most: Greatest share of characters masked at first: where hardly anything is to be seen, hardly anything is to
            be learnt.
        most_until: Share of the time after which all may be.
        pieces: How many pieces text is written in; 0 for characters.
    """

    dim: int
    depth: int
    heads: int
    block: int
    batch: int
    rate: float
    muon_rate: float = 0.02
    warmup: int = 100
    cooldown: float = 0.5
    average: float = 0.0
    window: int = 3
    window_dim: int = 64
    reach: int = 2
    tilt: float = 0.5
    last_tilt: float = 0.5
    complement: bool = False
    most: float = 1.0
    most_until: float = 0.8
    pieces: int = 0

    @property
    def states(self) -> int:
        """Symbols or pieces, and the mask after them."""
        return (self.pieces or len(TEXT8_ALPHABET)) + 1

    @property
    def scored(self) -> int:
        """Characters of the blocks that are scored."""
        return 256 if self.pieces else self.block


GPU = Recipe(dim=640, depth=10, heads=10, block=512, batch=256, rate=4e-3, window_dim=128)
PAPER = Recipe(768, 12, 12, block=256, batch=512, rate=5e-4, cooldown=0.0, average=0.02)
GPU_PIECES = dataclasses.replace(GPU, pieces=4096, block=128, batch=1024, window=1, most=0.7)
CPU = Recipe(dim=128, depth=5, heads=4, block=256, batch=16, rate=8e-3)
CPU_PIECES = dataclasses.replace(CPU, pieces=4096, block=72, batch=56, window=1, most=0.7)
SMALL_PAPER = Recipe(128, 5, 4, block=256, batch=16, rate=2e-3, cooldown=0.0, average=0.02)
RECIPES = {
    "cuda": {"ours": GPU, "autoregressive": GPU, "d3pm": PAPER},
    "cpu": {"ours": CPU, "autoregressive": CPU, "d3pm": SMALL_PAPER},
}

IN_PIECES = {
    "cuda": {"ours": GPU_PIECES, "autoregressive": GPU_PIECES},
    "cpu": {"ours": CPU_PIECES, "autoregressive": CPU_PIECES},
}


# ---------------------------------------------------------------- data


def read_text(path: Path) -> np.ndarray:
    """Symbols 0 … 26 of a plain or .xz file of a-z and spaces, uint8."""
    raw = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
    codes = np.full(256, 255, dtype=np.uint8)
    codes[[ord(letter) for letter in TEXT8_ALPHABET]] = np.arange(len(TEXT8_ALPHABET))
    text = codes[np.frombuffer(raw, dtype=np.uint8)]
    if (text == 255).any():
        sys.exit(
            f"{path}: holds more than a-z and spaces at {int((text == 255).argmax())}: give text8's alphabet"
        )
    return text


def cut(text: np.ndarray, split: str) -> np.ndarray:
    """One split."""
    first, last = (round(len(text) * share) for share in SPLITS[split])
    return text[first:last]


@dataclasses.dataclass(frozen=True)
class Written:
    """Text as a network sees it, on the device.

    Attributes:
        text: Characters or pieces.
        chars: How many characters one of them stands for, on average.
        pieces: What tells how others are written; None for characters.
    """

    text: Tensor
    chars: float = 1.0
    pieces: Pieces | None = None


def write(text: np.ndarray, recipe: Recipe, device: torch.device) -> Written:
    """The training text, in pieces if the recipe asks for them."""
    if not recipe.pieces:
        return Written(torch.from_numpy(text).to(device))
    pieces = Pieces(text, recipe.pieces, recipe.scored)
    written = torch.from_numpy(pieces.encode(text)).to(device)
    return Written(written, len(text) / len(written), pieces)


def rows_at(text: Tensor, starts: Tensor, length: int) -> Tensor:
    """Rows of characters, int64 (B, length)."""
    return text[starts[:, None] + torch.arange(length, device=text.device)].long()


def random_rows(text: Tensor, count: int, length: int, generator: torch.Generator | None) -> Tensor:
    """Rows from anywhere in the text."""
    starts = torch.randint(len(text) - length + 1, (count,), device=text.device, generator=generator)
    return rows_at(text, starts, length)


# ---------------------------------------------------------------- losses


def stratified(count: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """One number in each of ``count`` equal parts of [0, 1), float32 in random order."""
    place = torch.arange(count, device=device) + torch.rand(count, device=device, generator=generator)
    return (place / count)[torch.randperm(count, device=device, generator=generator)].clamp(max=1 - 1e-6)


def hide(x0: Tensor, number: Tensor, generator: torch.Generator | None) -> Tensor:
    """Which characters are masked: ``number`` (B,) in each row, every set of that size alike; bool (B, L)."""
    order = torch.rand(x0.shape, device=x0.device, generator=generator).argsort(dim=-1)
    among = torch.arange(x0.shape[1], device=x0.device) < number[:, None]
    return torch.zeros_like(among).scatter(-1, order, among)


def surprise(network: nn.Module, x0: Tensor, hidden: Tensor) -> Tensor:
    """Mean of -log belief in the hidden characters of each row, in nats, (B,): rows' parts of the bound.

    With n hidden characters, n uniform on 1 … L and every set of n alike, its mean is the bound of the absorbing
    kernel in continuous time per character: the integral over the time of a set of size n is 1 / n.
    """
    number = hidden.sum(-1)
    mask: Any = network.num_states - 1
    logits = network(torch.where(hidden, mask, x0), number)[..., :mask].float()
    nats = F.cross_entropy(logits.flatten(0, 1), x0.flatten(), reduction="none").view(x0.shape)
    return (nats * hidden).sum(-1) / number.clamp(min=1)


def masked_loss(
    network: nn.Module, recipe: Recipe, x0: Tensor, generator: torch.Generator | None, share: float = 0.0
) -> Tensor:
    """The mean of rows' parts of the bound, tilted towards rows of many masks."""
    rows = len(x0) // 2 if recipe.complement else len(x0)
    length = x0.shape[1]
    most = recipe.most if share < recipe.most_until else 1.0
    number = 1 + (stratified(rows, x0.device, generator) * most * length).long()
    hidden = hide(x0[:rows], number, generator)
    if recipe.complement:
        x0, hidden = x0[:rows].repeat(2, 1), torch.cat([hidden, ~hidden])
    weight = (hidden.sum(-1) / length) ** (recipe.tilt + share * (recipe.last_tilt - recipe.tilt))
    return (surprise(network, x0, hidden) * weight).sum() / weight.sum()


def causal_nats(network: nn.Module, x0: Tensor) -> Tensor:
    """-log p of every character given those before it in its row, (B, L); the first is told nothing."""
    mask: Any = network.num_states - 1
    before = torch.cat([torch.full_like(x0[:, :1], mask), x0[:, :-1]], dim=1)
    logits = network(before, None)[..., :mask].float()
    return F.cross_entropy(logits.flatten(0, 1), x0.flatten(), reduction="none").view(x0.shape)


def d3pm_process(num_states: int) -> DiscreteDiffusion:
    return DiscreteDiffusion(AbsorbingTransition(num_states, NUM_STEPS))


def make_loss(
    run: str, recipe: Recipe
) -> Callable[[nn.Module, Tensor, torch.Generator | None, float], Tensor]:
    """The mean training loss of a batch in nats per character, once a share of the time has gone."""
    if run == "ours":
        return lambda network, x0, generator, share: masked_loss(network, recipe, x0, generator, share)
    if run == "autoregressive":
        return lambda network, x0, generator, share: causal_nats(network, x0).mean()
    process, objective = d3pm_process(recipe.states), AuxiliaryBound(weight=0.01)
    return lambda network, x0, generator, share: (
        objective(process, network, x0, generator=generator).mean() / x0.shape[1]
    )


# ---------------------------------------------------------------- network and optimizer


def make_network(run: str, recipe: Recipe) -> TransformerDenoiser | CharacterTransformer:
    if run == "d3pm":
        return TransformerDenoiser(recipe.states, recipe.dim, recipe.depth, recipe.heads)
    size = (recipe.states, recipe.dim, recipe.depth, recipe.heads)
    more = {"window": recipe.window, "window_dim": recipe.window_dim, "reach": recipe.reach}
    return CharacterTransformer(*size, **more, causal=run == "autoregressive")


def orthogonal(g: Tensor) -> Tensor:
    """Matrices (n, r, c) with all singular values moved to about 1, by five steps of a quintic Newton-Schulz."""
    x = g.bfloat16() if g.is_cuda else g
    wide = x if g.shape[-2] <= g.shape[-1] else x.mT
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = wide @ wide.mT
        wide = 3.4445 * wide + (-4.7750 * a + 2.0315 * a @ a) @ wide
    return (wide if g.shape[-2] <= g.shape[-1] else wide.mT).to(g.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal, all matrices of one shape at once (Jordan et al., 2024)."""

    def __init__(self, parameters: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        shapes: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in parameters:
            shapes.setdefault(parameter.shape, []).append(parameter)
        groups = [{"params": same} for same in shapes.values()]
        super().__init__(groups, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = group["params"]
            gradient = torch.stack([p.grad for p in parameters])
            state = self.state[parameters[0]]
            if "moment" not in state:
                state["moment"] = torch.zeros_like(gradient)
            moment = state["moment"]
            moment.lerp_(gradient, 1 - group["momentum"])
            update = orthogonal(gradient.lerp(moment, group["momentum"]))
            stretch = max(1, gradient.shape[-2] / gradient.shape[-1]) ** 0.5
            torch._foreach_add_(parameters, list(update.unbind()), alpha=-group["lr"] * stretch)


def make_optimizers(run: str, recipe: Recipe, network: Any) -> list[torch.optim.Optimizer]:
    """Ours: Muon for the matrices of the blocks, Adam for the rest. The paper's: Adam."""
    if run == "d3pm":
        return [torch.optim.Adam(network.parameters(), lr=recipe.rate, fused=True)]
    inside: list[Any] = [m.weight for m in network.blocks.modules() if isinstance(m, nn.Linear)]
    rest = [p for p in network.parameters() if all(p is not q for q in inside)]
    adam = torch.optim.Adam(rest, lr=recipe.rate, betas=(0.9, 0.95), eps=1e-10, fused=True)
    return [Muon(inside, recipe.muon_rate), adam]


def rate_at(step: int, share: float, recipe: Recipe) -> float:
    """Factor of the learning rates at a step, once this share of the time has gone."""
    up = min(1.0, (step + 1) / max(recipe.warmup, 1))
    down = min(1.0, (1 - share) / recipe.cooldown) if recipe.cooldown else 1.0
    return max(up * down, 0.0)


# ---------------------------------------------------------------- training


def processor_time() -> float:
    """Seconds of the processor, all threads together, compilers that were started and have ended included."""
    return sum(os.times()[:4])


class Clock:
    """Seconds of training so far: of the wall on a GPU, of the processor on a CPU."""

    def __init__(self, device: torch.device, seconds: float) -> None:
        self.now = time.perf_counter if device.type == "cuda" else processor_time
        self.device, self.seconds, self.start = device, seconds, self.now()

    def elapsed(self) -> float:
        return self.now() - self.start

    def share(self) -> float:
        return self.elapsed() / self.seconds

    def wait(self) -> None:
        """Let the device finish what it was given, so that the time is that of work done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def peak_rate(device: torch.device) -> float:
    """Multiply-adds twice a second of a large matrix product, bf16 on a GPU, float32 on a CPU."""
    cuda = device.type == "cuda"
    size, dtype, repeats = (8192, torch.bfloat16, 20) if cuda else (1024, torch.float32, 10)
    a = torch.randn(size, size, device=device, dtype=dtype)
    for _ in range(3):
        a @ a
    clock = Clock(device, 1.0)
    clock.wait()
    clock.start = clock.now()
    for _ in range(repeats):
        a @ a
    clock.wait()
    return 2 * size**3 * repeats / clock.elapsed()


def operations(run: str, recipe: Recipe) -> float:
    """Floating-point operations of matrix products an entry of a training step: thrice those of a forward pass.

    Counted on a network without storage; attention as if every pair of positions were looked at, causal or not.
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        make_network(run, recipe)(torch.zeros(1, recipe.block, dtype=torch.int64), torch.ones(1))
    return 3 * counter.get_total_flops() / recipe.block


def memory(device: torch.device) -> float:
    """Greatest use so far, in GB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


class Average:
    """Weights averaged over the last ``share`` of the steps."""

    def __init__(self, network: nn.Module, share: float) -> None:
        self.network, self.share = network, share
        self.mean = [p.detach().clone() for p in network.parameters()] if share else []

    @torch.no_grad()
    def add(self, step: int) -> None:
        if self.share:
            new = [p.detach() for p in self.network.parameters()]
            torch._foreach_lerp_(self.mean, new, 1 / max(1.0, self.share * step))

    @torch.no_grad()
    def install(self) -> None:
        if self.share:
            torch._foreach_copy_(list(self.network.parameters()), self.mean)


class Rates:
    """Learning rates of all optimizers: up by the step, down by the clock."""

    def __init__(self, optimizers: list[torch.optim.Optimizer], recipe: Recipe) -> None:
        self.groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        self.peaks, self.recipe = [group["lr"] for group in self.groups], recipe

    def set(self, step: int, share: float) -> None:
        for group, peak in zip(self.groups, self.peaks, strict=True):
            group["lr"] = peak * rate_at(step, share, self.recipe)


class Progress:
    """A line every so many seconds: time, step, mean loss since the last line, speed, share of the peak, memory.

    The loss is what is trained on: tilted for ``ours``, L_lambda for ``d3pm``, and the bits of a character only for
    ``autoregressive``.
    """

    def __init__(self, clock: Clock, every: float, chars: float, work: float, peak: float) -> None:
        self.clock, self.every, self.chars, self.work, self.peak = clock, every, chars, work, peak
        self.time, self.losses = clock.elapsed(), list[Tensor]()

    def add(self, step: int, loss: Tensor) -> None:
        self.losses.append(loss)
        if step % 20 == 0 or self.clock.elapsed() - self.time > self.every:
            self.clock.wait()  # the host may be ahead of the device, but not by much
        if self.clock.elapsed() - self.time > self.every:
            print(self.line(step), flush=True)
            self.time, self.losses = self.clock.elapsed(), []

    def line(self, step: int) -> str:
        now, bits = self.clock.elapsed(), float(torch.stack(self.losses).mean())
        speed = len(self.losses) * self.chars / (now - self.time)
        rate = f"{speed * self.work / self.peak:5.1%} of {self.peak / 1e12:.2f} TFLOP/s"
        used = memory(self.clock.device)
        return f"{now:7.0f} s  step {step:6d}  loss {bits:.3f} bits  {speed:10,.0f} chars/s  {rate}  {used:.1f} GB"


def compiled(network: nn.Module, device: torch.device) -> Any:
    """The network compiled without graph breaks; on a CPU by no helper whose time the clock does not see."""
    if device.type == "cpu":
        from torch._inductor import config

        config.compile_threads = 1
    return torch.compile(network, fullgraph=True)


def train(
    run: str, recipe: Recipe, network: nn.Module, written: Written, clock: Clock, args: argparse.Namespace
) -> dict:
    """Train until the time is up, of which writing took some; what it came to."""
    device, step, spent = written.text.device, 0, clock.elapsed()
    generator = torch.Generator(device).manual_seed(args.seed)
    loss_of, optimizers = make_loss(run, recipe), make_optimizers(run, recipe, network)
    rates, average = Rates(optimizers, recipe), Average(network, recipe.average)
    fast: Any = network if args.eager else compiled(network, device)
    peak, work = peak_rate(device), operations(run, recipe) / written.chars
    chars, to_bits = recipe.batch * recipe.block * written.chars, 1 / (written.chars * math.log(2))
    clock.start = clock.now() - spent
    progress = Progress(clock, args.every, chars, work, peak)
    while (share := step / args.steps if args.steps else clock.share()) < 1:
        rates.set(step, share)
        x0 = random_rows(written.text, recipe.batch, recipe.block, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = loss_of(fast, x0, generator, share)
        loss.backward()
        if run == "d3pm":
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        average.add(step)
        progress.add(step, loss.detach() * to_bits)
    clock.wait()
    seconds = clock.elapsed()
    training = max(seconds - spent, 0.01)  # the clock of a CPU ticks in hundredths
    average.install()
    return {
        "seconds": seconds,
        "steps": step,
        "chars_of_an_entry": written.chars,
        "chars_seen": round(step * chars),
        "chars_per_second": step * chars / training,
        "share_of_peak": step * chars * work / training / peak,
        "peak_tflops": peak / 1e12,
        "operations_per_char": work,
        "memory_gb": memory(device),
    }


# ---------------------------------------------------------------- scoring


def spans(text: Tensor, count: int, length: int) -> Tensor:
    """Rows spread evenly over a text, the same for every run."""
    starts = torch.linspace(0, len(text) - length, count, dtype=torch.float64, device=text.device).long()
    return rows_at(text, starts, length)


@torch.no_grad()
def row_bits(
    run: str, network: nn.Module, x0: Tensor, draws: int, generator: torch.Generator | None
) -> Tensor:
    """Bits an entry of each row, (B,): exact if autoregressive, an unbiased draw of the bound otherwise.

    Ours is the bound in continuous time, with numbers of masks stratified over 1 … L; the paper's that of T = 1000.
    """
    if run == "autoregressive":
        nats = causal_nats(network, x0).mean(-1)
    elif run == "d3pm":
        process = d3pm_process(network.num_states)  # type: ignore[arg-type]
        bound = vlb_estimate(process, network, x0, num_times=draws, generator=generator)
        nats = bound.total / x0.shape[1]
    else:
        nats = torch.zeros(len(x0), device=x0.device)
        for stratum in range(draws):
            place = (stratum + stratified(len(x0), x0.device, generator)) / draws
            number = 1 + (place * x0.shape[1]).long()
            nats += surprise(network, x0, hide(x0, number, generator)) / draws
    return nats / math.log(2)


def alike(blocks: Tensor, pieces: Pieces | None) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Blocks as they are written, those of equal length together: which, entries (B, n), bits to tell the length."""
    if pieces is None:
        yield torch.arange(len(blocks)), blocks, 0.0
        return
    written = pieces.encode_each(list(blocks.cpu().numpy().astype(np.uint8)))
    lengths = np.array([len(ids) for ids in written])
    for length in np.unique(lengths):
        which = np.flatnonzero(lengths == length)
        entries = torch.from_numpy(np.stack([written[i] for i in which]))
        yield torch.from_numpy(which), entries.to(blocks.device), pieces.bits_of_length(length)


def score(
    run: str, network: nn.Module, rows: Tensor, block: int, pieces: Pieces | None, args: argparse.Namespace
) -> dict:
    """Mean and standard error over rows, each cut into blocks that know nothing of each other."""
    generator = torch.Generator(rows.device).manual_seed(1)
    size, bits = max(1, args.score_chars // block), torch.zeros(rows.numel() // block, dtype=torch.float64)
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=rows.device.type == "cuda"):
        for which, x0, of_length in alike(rows.view(-1, block), pieces):
            entries = [row_bits(run, network, part, args.draws, generator) for part in x0.split(size)]
            bits[which] = torch.cat(entries).double().cpu() * x0.shape[1] + of_length
    per_row = bits.view(len(rows), -1).sum(-1) / rows.shape[1]
    return {
        "bits_per_char": float(per_row.mean()),
        "standard_error": float(per_row.std() / math.sqrt(len(rows))),
        "rows": len(rows),
        "chars_of_a_row": rows.shape[1],
        "block": block,
    }


# ---------------------------------------------------------------- command


def save(run: str, network: nn.Module, recipe: Recipe, pieces: Pieces | None, folder: Path) -> None:
    """A diffusion as `DiffusionModel.from_pretrained` reads it; an autoregressive network as its weights and pieces."""
    if run == "autoregressive":
        torch.save(network.state_dict(), folder / "network.pt")
        if pieces:
            pieces.codec.save_pretrained(folder)
        return
    from transformers.utils import logging

    from d3pm import DiffusionModel
    from d3pm.data.codec import TextCodec
    from d3pm.discrete.continuous import ContinuousTimeBound

    logging.disable_progress_bar()
    objective = AuxiliaryBound(0.01) if run == "d3pm" else ContinuousTimeBound()
    model = DiffusionModel(
        process=d3pm_process(recipe.states),
        network=network,
        objective=objective,
        codec=pieces.codec if pieces else TextCodec.characters(),
        shape=(recipe.block,),
    )
    model.save_pretrained(folder)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", choices=["ours", "d3pm", "autoregressive"], required=True)
    parser.add_argument("--minutes", type=float, default=25.0, help="of training; of processor time on a CPU")
    parser.add_argument("--steps", type=int, help="train that many steps instead, however long they take")
    parser.add_argument("--cpu", action="store_true", help="a small network on the CPU")
    parser.add_argument("--pieces", action="store_true", help="text in pieces of words, not in characters")
    parser.add_argument(
        "--data", type=Path, help="a text of a-z and spaces, .xz or plain; $D3PM_DATA/books8 if not given"
    )
    parser.add_argument("--output", type=Path, help="folder of the result; runs/speedrun-RUN if not given")
    parser.add_argument(
        "--rows", type=int, help="held-out rows that are scored; 8192 if not given, 512 on a CPU"
    )
    parser.add_argument("--span", type=int, default=512, help="characters of such a row")
    parser.add_argument("--draws", type=int, default=8, help="times drawn for each block when scoring")
    parser.add_argument("--score-chars", type=int, default=65_536, help="characters scored at once")
    parser.add_argument("--every", type=float, default=30.0, help="seconds between lines of progress")
    parser.add_argument("--eager", action="store_true", help="do not compile the network")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the recipe")
    return parser.parse_args(argv)


def changed(recipe: Recipe, settings: list[str]) -> Recipe:
    values = {}
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in Recipe.__dataclass_fields__:
            sys.exit(
                f"--set {setting}: no such setting: choose from {', '.join(Recipe.__dataclass_fields__)}"
            )
        values[key] = json.loads(value.lower())
    return dataclasses.replace(recipe, **values)


def find_text(data: Path | None) -> Path:
    path = data or Path(os.environ.get("D3PM_DATA", ".")) / "books8" / "books8.xz"
    if not path.is_file():
        sys.exit(f"{path}: no such file: give --data, or the folder of books8 in D3PM_DATA")
    return path


def main(argv: list[str] | None = None) -> dict:
    args = parse(argv)
    if not args.cpu and not torch.cuda.is_available():
        sys.exit("there is no GPU: add --cpu for the small run")
    device = torch.device("cpu" if args.cpu else "cuda")
    recipes = IN_PIECES if args.pieces else RECIPES
    if args.run not in recipes[device.type]:
        sys.exit(f"--pieces: {args.run} is of characters: leave it out, or take ours or autoregressive")
    recipe = changed(recipes[device.type][args.run], args.set)
    if args.pieces != bool(recipe.pieces):
        sys.exit(f"--set pieces={recipe.pieces}: give it with --pieces, and above 0")
    if args.span % recipe.scored:
        sys.exit(f"--span {args.span}: give a multiple of the block, {recipe.scored}")
    if args.minutes <= 0:
        sys.exit(f"--minutes {args.minutes:g}: give more than 0")
    if args.steps is not None and args.steps < 1:
        sys.exit(f"--steps {args.steps}: give 1 or more")
    folder = args.output or Path("runs") / f"speedrun-{args.run}"
    folder.mkdir(parents=True, exist_ok=True)
    text = read_text(find_text(args.data))
    torch.manual_seed(args.seed)
    network = make_network(args.run, recipe).to(device)
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{args.run}: {parameters:,} parameters, {recipe}", flush=True)
    clock = Clock(device, 60 * args.minutes)
    written = write(cut(text, "train"), recipe, device)
    if args.pieces and not args.steps and clock.share() >= 1:
        sys.exit(f"--minutes {args.minutes:g}: writing the text in pieces took all of them: give more")
    trained = train(args.run, recipe, network, written, clock, args)
    network.eval()
    count = args.rows or (512 if args.cpu else 8192)
    held_out = {split: torch.from_numpy(cut(text, split)).to(device) for split in ("validation", "test")}
    rows = {split: spans(part, count, args.span) for split, part in held_out.items()}
    scores = {
        split: score(args.run, network, x0, recipe.scored, written.pieces, args) for split, x0 in rows.items()
    }
    of_256 = recipe.scored == 256  # what the literature scores
    rest = (rows["test"], 256, written.pieces, args)
    scores["test_of_256"] = scores["test"] if of_256 else score(args.run, network, *rest)
    for name, found in scores.items():
        print(f"{name}: {found['bits_per_char']:.4f} ± {found['standard_error']:.4f} bits/char")
    result = {
        "run": args.run,
        "minutes": None if args.steps else args.minutes,
        "parameters": parameters,
        **trained,
        "scores": scores,
        "recipe": dataclasses.asdict(recipe),
        "device": torch.cuda.get_device_name()
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "date": time.strftime("%Y-%m-%d"),
    }
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    save(args.run, network, recipe, written.pieces, folder)
    return result


if __name__ == "__main__":
    main()

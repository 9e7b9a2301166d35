"""Time the kernels against a cross-entropy and against dense matrices, side by side in one run.

    python scripts/bench_kernels.py [--threads 2] [--repeats 30]

Per vocabulary size: ``q_sample``, ``posterior`` (ours is a law of three numbers an entry, never K), a reverse step
with its draw, and the training bound forward and backward from given logits, as it is and under ``torch.compile``,
for the absorbing and the uniform kernel. Each round runs every case once, so that a slow moment of the machine falls
on all of them; medians in milliseconds, ratios to

(a) one ``F.cross_entropy`` forward and backward on the same logits: the floor, and
(b) a dense implementation on (T, K, K) stacks, as D3PM code is usually written.

Then ``q_sample`` at [32, 256] for every K with the memory it takes, and what share of a training step of the
quickstart's shape and loss is the process (everything but the network and the optimizer).
"""

import argparse
import ctypes
import datetime
import functools
import platform
import statistics
import time
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from d3pm import AbsorbingTransition, DiscreteDiffusion, UniformTransition
from d3pm.networks import TransformerDenoiser
from d3pm.objectives import AuxiliaryBound, Objective, VariationalBound
from d3pm.transitions import Transition

SHAPES = {27: (32, 256), 256: (8, 1024), 8192: (4, 128), 50257: (2, 64)}
NUM_STEPS = 1000
DENSE_STEPS = {27: 1000, 256: 1000, 8192: 3}  # what fits: at K = 8192 one matrix takes 268 MB
KERNELS: dict[str, type[Transition]] = {"absorbing": AbsorbingTransition, "uniform": UniformTransition}

Case = Callable[[], object]


class DenseDiffusion:
    """D3PM with every matrix stored, in float32: the obvious implementation."""

    def __init__(self, kernel: Transition) -> None:
        now = torch.arange(1, kernel.num_steps + 1)
        self.steps = torch.stack([kernel.between(t[None] - 1, t[None]).dense()[0].float() for t in now])
        zero = torch.zeros(1, dtype=torch.int64)
        self.bars = torch.stack(
            [kernel.between(zero, t[None]).dense()[0].float() for t in torch.cat([zero, now])]
        )

    def q_sample(self, x0: Tensor, t: Tensor) -> Tensor:
        return self.bars[t[:, None], x0].flatten(0, -2).multinomial(1).view(x0.shape)

    def posterior(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        back = self.steps[t - 1].transpose(1, 2)[torch.arange(len(t))[:, None], x_t]
        logits = back.clamp(min=1e-30).log() + self.bars[t[:, None] - 1, x0].clamp(min=1e-30).log()
        return logits.log_softmax(-1)

    def reverse(self, logits: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        back = self.steps[t - 1].transpose(1, 2)[torch.arange(len(t))[:, None], x_t]
        ahead = logits.softmax(-1) @ self.bars[t - 1]
        return (back.clamp(min=1e-30).log() + ahead.clamp(min=1e-30).log()).log_softmax(-1)

    def bound(self, logits: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        posterior = self.posterior(x0, x_t, t)
        return (posterior.exp() * (posterior - self.reverse(logits, x_t, t))).sum()


def cases(num_states: int, name: str) -> dict[str, Case]:
    """What is timed at one vocabulary size for one kernel."""
    shape = SHAPES[num_states]
    logits = torch.randn(*shape, num_states, requires_grad=True)
    x0 = torch.randint(num_states - 1, shape)
    out: dict[str, Case] = {}

    def backward(loss: Tensor) -> None:
        loss.backward()
        logits.grad = None

    def floor(logits: Tensor, x0: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), x0.flatten())

    out["cross-entropy"] = lambda: backward(floor(logits, x0))
    process = DiscreteDiffusion(KERNELS[name].example(num_states, NUM_STEPS))
    t = torch.randint(1, NUM_STEPS + 1, shape[:1])
    s, x_t = t - 1, process.q_sample(x0, t)

    def reverse() -> Tensor:
        with torch.no_grad():
            return process.reverse(logits, x_t, s, t).sample()

    def bound(logits: Tensor, x0: Tensor, x_t: Tensor, s: Tensor, t: Tensor) -> Tensor:
        return process.posterior(x0, x_t, s, t).kl(process.reverse(logits, x_t, s, t)).sum()

    out["q_sample"] = lambda: process.q_sample(x0, t)
    out["posterior"] = lambda: process.posterior(x0, x_t, s, t)
    out["reverse"] = reverse
    out["bound"] = lambda: backward(bound(logits, x0, x_t, s, t))
    torch.compiler.reset()  # else shapes met before count against a limit
    fast_floor, fast_bound = (torch.compile(loss, fullgraph=True) for loss in (floor, bound))
    out["cross-entropy, compiled"] = lambda: backward(fast_floor(logits, x0))
    out["bound, compiled"] = lambda: backward(fast_bound(logits, x0, x_t, s, t))

    if num_states in DENSE_STEPS:
        kernel = KERNELS[name].example(num_states, DENSE_STEPS[num_states])
        dense = DenseDiffusion(kernel)
        u = torch.randint(1, kernel.num_steps + 1, shape[:1])
        y = DiscreteDiffusion(kernel).q_sample(x0, u)

        def dense_reverse() -> Tensor:
            with torch.no_grad():
                return dense.reverse(logits, y, u).exp().flatten(0, -2).multinomial(1)

        out["dense q_sample"] = lambda: dense.q_sample(x0, u)
        out["dense posterior"] = lambda: dense.posterior(x0, y, u)
        out["dense reverse"] = dense_reverse
        out["dense bound"] = lambda: backward(dense.bound(logits, x0, y, u))
    return out


def keep_pages() -> None:
    """Have glibc keep what was freed: else some cases are timed with the work for fresh pages, and others without."""
    trim_threshold, mmap_threshold, most = -1, -3, 32 * 2**20
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another libc
        return
    mallopt(mmap_threshold, most)
    mallopt(trim_threshold, 2**31 - 1)


def alternate(cases: dict[str, Case], repeats: int) -> dict[str, float]:
    """Median milliseconds of each case; every round runs each once, after two rounds of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for round_ in range(repeats + 2):
        for name, case in cases.items():
            start = time.perf_counter()
            case()
            if round_ >= 2:
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def kernel_rows(repeats: int) -> None:
    """The table."""
    print("| K | [B, L] | kernel | what | ms | / cross-entropy | dense ms | dense / ours |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for num_states, shape in SHAPES.items():
        for name in KERNELS:
            few = min(repeats, 5) if num_states == 8192 else repeats  # the dense twin takes seconds there
            every = cases(num_states, name)
            # Against the floor without the dense twin, whose gigabytes leave the allocator cold; then against it.
            floors = {what: case for what, case in every.items() if not what.startswith("dense")}
            ms = alternate(floors, repeats)
            floor = ms["cross-entropy"]
            several = {what: case for what, case in every.items() if not what.endswith("compiled")}
            beside_dense = alternate(several, few) if len(every) > len(floors) else {}
            print(f"| {num_states} | {list(shape)} | {name} | cross-entropy | {floor:.2f} | 1 | | |")
            for what in list(floors)[1:]:
                dense = beside_dense.get(f"dense {what}")
                none = " | " if what.endswith("compiled") else "cannot be stored | "
                beside = none if dense is None else f"{dense:.2f} | {dense / beside_dense[what]:.0f}"
                print(
                    f"| | | {name} | {what} | {ms[what]:.2f} | {ms[what] / floor:.2f} | {beside} |",
                    flush=True,
                )


def corruption_rows(repeats: int) -> None:
    """``q_sample`` at [32, 256]: its time and the most memory one tensor or all of them take, whatever K is."""
    print("| K | q_sample [32, 256], absorbing ms | uniform ms | allocated, absorbing | uniform |")
    print("| --- | --- | --- | --- | --- |")
    x0, t = torch.randint(26, (32, 256)), torch.randint(1, NUM_STEPS + 1, (32,))
    for num_states in SHAPES:
        processes = [DiscreteDiffusion(KERNELS[name].example(num_states, NUM_STEPS)) for name in KERNELS]
        draws: dict[str, Case] = {
            name: functools.partial(p.q_sample, x0, t) for name, p in zip(KERNELS, processes, strict=True)
        }
        ms = alternate(draws, repeats)
        memory = []
        for process in processes:
            with torch.profiler.profile(profile_memory=True) as profile:
                process.q_sample(x0, t)
            taken = sum(max(event.self_cpu_memory_usage, 0) for event in profile.key_averages())
            memory.append(f"{taken / 1024:.0f} KiB")
        print(f"| {num_states} | {ms['absorbing']:.2f} | {ms['uniform']:.2f} | {memory[0]} | {memory[1]} |")


def process_share(repeats: int) -> None:
    """The process in one training step of the quickstart's shape: 4 layers of 128, 32 x 64 characters."""
    x0 = torch.randint(27, (32, 64))
    losses = {"VariationalBound": VariationalBound(), "AuxiliaryBound": AuxiliaryBound()}
    for name, num_states in (("absorbing", 28), ("uniform", 27)):
        process = DiscreteDiffusion(KERNELS[name].example(num_states, NUM_STEPS))
        network = TransformerDenoiser(
            num_states, dim=128, depth=4, heads=4, time_conditioned=name != "absorbing"
        )
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        logits = torch.randn(32, 64, num_states, requires_grad=True)

        def given(x_t: Tensor, t: Tensor, logits: Tensor = logits) -> Tensor:
            return logits

        def step(loss: Objective, process: DiscreteDiffusion, network: Callable[..., Tensor]) -> None:
            loss(process, network, x0).sum().backward()

        for title, loss in losses.items():

            def whole(
                loss: Objective = loss,
                process: DiscreteDiffusion = process,
                network: TransformerDenoiser = network,
                optimizer: torch.optim.Optimizer = optimizer,
            ) -> None:
                step(loss, process, network)
                optimizer.step()
                optimizer.zero_grad()

            part = functools.partial(step, loss, process, given)
            ms = alternate({"part": part, "whole": whole}, repeats)
            print(
                f"process part of a training step, {name}, {title}: {ms['part']:.2f} of {ms['whole']:.1f} ms, "
                f"{100 * ms['part'] / ms['whole']:.1f} %"
            )


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    keep_pages()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    today = datetime.date.today().isoformat()
    print(
        f"{today}, torch {torch.__version__}, {args.threads} threads, {platform.processor() or platform.machine()}"
    )
    print(
        f"medians of {args.repeats} alternating rounds, 5 beside dense at K = 8192; "
        f"T = {NUM_STEPS}, but for dense at K = 8192, where it is {DENSE_STEPS[8192]}\n"
    )
    kernel_rows(args.repeats)
    print()
    corruption_rows(args.repeats)
    print()
    process_share(args.repeats)


if __name__ == "__main__":
    main()

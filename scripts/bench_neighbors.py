"""Time and weigh the nearest-neighbour kernel: rows, cols, samples of 4,096 tokens at K = 8,192, T = 1,000.

    OMP_NUM_THREADS=2 python scripts/bench_neighbors.py [--embeddings FILE.npy] [--num-states 8192] [--anchors 256]

Without ``--embeddings`` the points are random directions with clusters, which is what word vectors look like. "mixed"
are 16 rows of 256 tokens, each with its own time; "each" gives every token a time of its own. The second and later
calls are timed (the first one fills caches and solves for slow modes): the median of ``--repeats``.
"""

import argparse
import datetime
import platform
import resource
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from d3pm.transitions.nearest_neighbor import NearestNeighborTransition


def directions(num_states: int, dim: int = 64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(num_states // 40 + 1, dim, generator=generator, dtype=torch.float64)
    near = centers[torch.randint(len(centers), (num_states,), generator=generator)]
    rows = near + 1.5 * torch.randn(num_states, dim, generator=generator, dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def tensor_bytes(value: object, seen: set[int]) -> int:
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):
        if value.layout == torch.sparse_csr:
            return sum(
                tensor_bytes(v, seen) for v in (value.values(), value.crow_indices(), value.col_indices())
            )
        return value.untyped_storage().nbytes()
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, dict):
        return sum(tensor_bytes(v, seen) for v in value.values())
    if isinstance(value, list | tuple):
        return sum(tensor_bytes(v, seen) for v in value)
    return tensor_bytes(vars(value), seen) if hasattr(value, "__dict__") else 0


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def timed(work: Callable[[], object], repeats: int) -> str:
    start = time.perf_counter()
    work()
    first = time.perf_counter() - start
    rounds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        rounds.append(time.perf_counter() - start)
    return f"{statistics.median(rounds):6.2f} s   (first call {first:.2f} s)"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--embeddings")
    parser.add_argument("--num-states", type=int, default=8192)
    parser.add_argument("--num-neighbors", type=int, default=5)
    parser.add_argument("--anchors", type=int)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    print(
        f"{datetime.date.today()}, {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"
    )
    points = torch.from_numpy(np.load(args.embeddings)) if args.embeddings else directions(args.num_states)
    warm = torch.randn(64, 64, dtype=torch.float64)
    torch.linalg.eigh(warm @ warm.T)
    before, start = peak(), time.perf_counter()
    kernel = NearestNeighborTransition(points, 1000, args.num_neighbors, anchors=args.anchors)
    print(f"{kernel}: made in {time.perf_counter() - start:.1f} s")
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(kernel.num_states, (16, 256), generator=generator)
    alone = x.view(-1, 1)
    for name, t in [(f"t = {t}", torch.full((16,), t)) for t in (1, 250, 500, 750, 900, 980, 1000)]:
        elapsed = float(kernel.elapsed(kernel.alpha_bars[t[:1]]))
        work = timed(lambda t=t: kernel.between(torch.zeros_like(t), t).rows(x), args.repeats)
        print(f"rows  {name:9s} tau = {elapsed:8.2g}  {work}")
    mixed = torch.randint(1, 1001, (16,), generator=generator)
    print("rows  mixed    ", timed(lambda: kernel.between(mixed * 0, mixed).rows(x), args.repeats))
    each = torch.randint(1, 1001, (4096,), generator=generator)
    print("rows  each     ", timed(lambda: kernel.between(each * 0, each).rows(alone), args.repeats))
    print("cols  one step ", timed(lambda: kernel.between(mixed - 1, mixed).cols(x), args.repeats))
    print("sample mixed   ", timed(lambda: kernel.between(mixed * 0, mixed).sample(x), args.repeats))
    p = torch.rand(4, 128, kernel.num_states)
    print("apply 512 mixed", timed(lambda: kernel.between(mixed[:4] * 0, mixed[:4]).apply(p), args.repeats))
    kept = tensor_bytes(kernel, set()) / 2**20
    print(f"the kernel keeps {kept:.0f} MiB; peak memory grew by {peak() - before:.2f} GiB")


if __name__ == "__main__":
    main()

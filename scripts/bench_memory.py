"""Peak memory and time of a loss and its gradient at a large vocabulary: from all logits, and from hidden states.

  python scripts/bench_memory.py
  python scripts/bench_memory.py --batch 4 --length 512 --dim 256

Each case runs in a process of its own and starts from the same seeds; memory is what it needs beyond what was there
before the network was called: of the process on a CPU (peak resident size), of the allocator on a GPU. The gradients
of all parameters are compared.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from d3pm import AbsorbingTransition, DiscreteDiffusion, UniformTransition
from d3pm.networks import TransformerDenoiser
from d3pm.objectives import VariationalBound

KERNELS = {"absorbing": AbsorbingTransition, "uniform": UniformTransition}


def peak(device: torch.device) -> float:
    """MiB at most so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def one(args: argparse.Namespace) -> None:
    """One case; its gradients go to a file, its numbers to the terminal."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    process = DiscreteDiffusion(KERNELS[args.kernel](num_states=args.states, num_steps=1000))
    network = TransformerDenoiser(args.states, args.dim, depth=1, heads=4, time_conditioned=False).to(device)
    torch.nn.init.normal_(network.head.weight, std=0.02)
    x0 = torch.randint(args.states - 1, (args.batch, args.length)).to(device)
    ask = network if args.case == "hidden states" else lambda x_t, t, **cond: network(x_t, t, **cond)
    generator = torch.Generator().manual_seed(0)
    before, start = peak(device), time.perf_counter()
    loss = VariationalBound()(process, ask, x0, generator=generator).sum() / x0.numel()
    loss.backward()
    loss_value = loss.item()  # waits for a device
    seconds, used = time.perf_counter() - start, peak(device) - before
    torch.save([parameter.grad.cpu() for parameter in network.parameters()], args.gradients)
    print(used, seconds, loss_value)


def run(case: str, kernel: str, args: argparse.Namespace, gradients: Path) -> list[float]:
    """Start :func:`one` in a process of its own."""
    sizes = [f"--{name}={getattr(args, name)}" for name in ("states", "batch", "length", "dim")]
    command = [sys.executable, __file__, *sizes, f"--case={case}", f"--kernel={kernel}"]
    made = subprocess.run([*command, f"--gradients={gradients}"], capture_output=True, text=True, check=False)
    if made.returncode:
        raise SystemExit(f"{case}, {kernel}: failed, for want of memory?\n{made.stderr[-400:]}")
    return [float(number) for number in made.stdout.split()]


def compare(args: argparse.Namespace) -> None:
    """Both cases for both kernels, as a table."""
    print(f"K = {args.states}, [{args.batch}, {args.length}], width {args.dim}, torch {torch.__version__}\n")
    print(
        "| kernel | all logits, MiB | from hidden states, MiB | ratio | all logits, s | hidden states, s | gradients |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        for kernel in KERNELS:
            files = [Path(folder) / f"{kernel}-{case}.pt" for case in (0, 1)]
            plain = run("logits", kernel, args, files[0])
            ours = run("hidden states", kernel, args, files[1])
            pairs = zip(*(torch.load(file) for file in files), strict=True)
            off = max(float((a - b).norm() / a.norm()) for a, b in pairs if a.norm() > 0)
            print(
                f"| {kernel} | {plain[0]:.0f} | {ours[0]:.0f} | {plain[0] / ours[0]:.1f} | {plain[1]:.1f} | "
                f"{ours[1]:.1f} | within {off:.1e} |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--states", type=int, default=50257)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--case", choices=("logits", "hidden states"), help=argparse.SUPPRESS)
    parser.add_argument("--kernel", choices=tuple(KERNELS), help=argparse.SUPPRESS)
    parser.add_argument("--gradients", help=argparse.SUPPRESS)
    args = parser.parse_args()
    one(args) if args.case else compare(args)


if __name__ == "__main__":
    main()

"""Time losses, training steps and DDIM beside other packages, side by side in one run.

    pip install --no-deps bionemo-moco jaxtyping wadler-lindig POT flow_matching
    pip install --no-deps denoising-diffusion-pytorch ema-pytorch einops
    python scripts/bench_peers.py [--threads 2] [--repeats 30] [--only losses steps gaussian share] [--markdown]

Peers are optional: one that cannot be imported is left out with a word. Everything runs in one process on the same
logits, data and noisy data, or with the same network. Each round runs every case once, so that a slow moment of the
machine falls on all of them; medians in milliseconds.

- ``losses``: forward and backward from given logits, without and with the draw of times and noisy data. A peer
  with matrices asks for T K x K of them, several times over; where they do not fit, the table says how many bytes.
- ``steps``: whole training steps with one small transformer and fused AdamW.
- ``gaussian``: the loss of DDPM and ten steps of DDIM, with no network and with one U-Net.
- ``share``: what part of a training step at 85 M parameters is not the network.
"""

import argparse
import datetime
import os
import platform
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from unittest import mock

import torch
import torch.nn.functional as F
from bench_kernels import SHAPES, DenseDiffusion, keep_pages
from torch import Tensor, nn

from d3pm import AbsorbingTransition, DiscreteDiffusion, GaussianDiffusion, UniformTransition, sample
from d3pm.discrete.continuous import ContinuousTimeBound
from d3pm.gaussian.ddim import DDIM
from d3pm.gaussian.objectives import SimpleError
from d3pm.networks import DiffusersUNet, TransformerDenoiser
from d3pm.objectives import AuxiliaryBound, Objective, VariationalBound
from d3pm.schedules import LinearSchedule

NUM_STEPS = 1000
KERNELS = {"mask": AbsorbingTransition, "uniform": UniformTransition}
STEP_SHAPES = {28: ((32, 64), 128, 4), 8192: ((4, 128), 128, 4)}  # entries, width and depth of the network
IMAGES, DDIM_STEPS = (16, 3, 32, 32), 10
CLOCK = time.perf_counter

Draw = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Data to times and noisy data."""
Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Logits, data, noisy data and times to a number."""


@dataclass(frozen=True)
class Method:
    """A loss as its package offers it.

    Attributes:
        name: Package and loss.
        draw: The package's own times and noisy data.
        loss: The loss, in the package's own units of time.
        when: Our times 1 ... T in those units.
        matrices: How many (T, K, K) float32 stacks it keeps.
    """

    name: str
    draw: Draw
    loss: Loss
    when: Callable[[Tensor], Tensor]
    matrices: int = 0


# The methods. Each is made only once its matrices are known to fit.


def ours(noise: str, num_states: int) -> Iterator[tuple[str, int, Callable[[], Method]]]:
    """The bound, the paper's loss with a cross-entropy beside it, and the bound of continuous time."""
    process = DiscreteDiffusion(KERNELS[noise](num_states, NUM_STEPS))
    for objective in (VariationalBound(), AuxiliaryBound(), ContinuousTimeBound()):

        def made(objective: Objective = objective) -> Method:
            def loss(logits: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
                return objective.at(process, logits, x0, x_t, t).mean() / NUM_STEPS

            draw = partial(objective.draw, process, generator=None)
            return Method(f"d3pm {type(objective).__name__}", draw, loss, lambda t: t)

        yield f"d3pm {type(objective).__name__}", 0, made


def dense(noise: str, num_states: int) -> Iterator[tuple[str, int, Callable[[], Method]]]:
    """D3PM as its paper writes it: every matrix stored."""

    def made() -> Method:
        matrices = DenseDiffusion(KERNELS[noise](num_states, NUM_STEPS))

        def draw(x0: Tensor) -> tuple[Tensor, Tensor]:
            t = torch.randint(1, NUM_STEPS + 1, x0.shape[:1])
            return t, matrices.q_sample(x0, t)

        def loss(logits: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
            return matrices.bound(logits, x0, x_t, t) / x0.numel()

        return Method("dense D3PM", draw, loss, lambda t: t)

    yield "dense D3PM", 2, made


def moco(noise: str, num_states: int) -> Iterator[tuple[str, int, Callable[[], Method]]]:
    """D3PM of bionemo-moco (a cross-entropy and its bound, from matrices), and its MDLM."""
    from bionemo.moco.distributions.prior import DiscreteMaskedPrior, DiscreteUniformPrior
    from bionemo.moco.distributions.time import UniformTimeDistribution
    from bionemo.moco.interpolants import D3PM, MDLM
    from bionemo.moco.schedules.noise.continuous_noise_transforms import LogLinearExpNoiseTransform
    from bionemo.moco.schedules.noise.discrete_noise_schedules import DiscreteLinearNoiseSchedule

    prior = {"mask": DiscreteMaskedPrior, "uniform": DiscreteUniformPrior}[noise](num_classes=num_states)

    def drawn(interpolant: object, x0: Tensor) -> tuple[Tensor, Tensor]:
        t = interpolant.sample_time(len(x0))  # type: ignore[attr-defined]
        return t, interpolant.interpolate(x0, t)  # type: ignore[attr-defined]

    def with_matrices() -> Method:
        times = UniformTimeDistribution(discrete_time=True, nsteps=NUM_STEPS)
        d3pm = D3PM(times, prior, DiscreteLinearNoiseSchedule(nsteps=NUM_STEPS))

        def loss(logits: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
            return d3pm.loss(logits, x0, x_t, t, vb_scale=1.0).mean()

        return Method("bionemo-moco D3PM", partial(drawn, d3pm), loss, lambda t: t - 1)

    yield "bionemo-moco D3PM", 3, with_matrices
    if noise == "mask":

        def masked() -> Method:
            mdlm = MDLM(UniformTimeDistribution(), prior, LogLinearExpNoiseTransform())

            def loss(logits: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
                return mdlm.loss(logits, x0, x_t, t).mean() / NUM_STEPS

            return Method("bionemo-moco MDLM", partial(drawn, mdlm), loss, lambda t: t / NUM_STEPS)

        yield "bionemo-moco MDLM", 0, masked


def flow(noise: str, num_states: int) -> Iterator[tuple[str, int, Callable[[], Method]]]:
    """The generalized KL of flow_matching along a mixture path, whose time runs from noise to data."""
    from flow_matching.loss import MixturePathGeneralizedKL
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler

    path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
    divergence = MixturePathGeneralizedKL(path)

    def draw(x0: Tensor) -> tuple[Tensor, Tensor]:
        t = torch.rand(len(x0)) * (1 - 1e-3)
        masks = noise == "mask"
        source = torch.full_like(x0, num_states - 1) if masks else torch.randint_like(x0, num_states)
        return t, path.sample(source, x0, t).x_t

    def loss(logits: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        return divergence(logits, x0, x_t, t) / NUM_STEPS

    yield "flow_matching", 0, lambda: Method("flow_matching", draw, loss, lambda t: 1 - t / NUM_STEPS)


def methods(noise: str, num_states: int) -> tuple[list[Method], dict[str, str]]:
    """Those that are at hand and can be made, ours first; and why the others cannot."""
    found: list[Method] = []
    refused: dict[str, str] = {}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for source in (ours, dense, moco, flow):
        try:
            for name, stacks, make in source(noise, num_states):
                asked = stacks * 4 * NUM_STEPS * num_states**2
                if asked > memory:
                    refused[name] = f"asks for {asked / 1e9:,.0f} GB of matrices"
                    continue
                try:
                    found.append(make())
                except ValueError as error:
                    refused[name] = f"refuses: {error}"
        except ImportError as error:
            absent(source.__name__, error)
    return found, refused


def absent(name: str, error: ImportError, told: set[str] = set()) -> None:  # noqa: B006 # says so once
    """Say that a peer is left out."""
    if name not in told:
        told.add(name)
        print(f"left out: {name} ({error})", file=sys.stderr)


# Timing


def alternate(cases: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """Median milliseconds; each case gives its own seconds, and each round runs every case once."""
    rounds = [{name: case() for name, case in cases.items()} for _ in range(repeats + 2)]
    return {name: 1000 * statistics.median(r[name] for r in rounds[2:]) for name in cases}


def timed(run: Callable[[], object]) -> float:
    """Seconds."""
    start = CLOCK()
    run()
    return CLOCK() - start


def from_logits(leaf: Tensor, loss: Callable[[Tensor], Tensor]) -> float:
    """Seconds for a loss and its gradient; it may write into the logits, as it could into a network's output."""
    logits = leaf.clone()
    seconds = timed(lambda: loss(logits).backward())
    leaf.grad = None
    return seconds


Table = tuple[str, list[str], list[list[str]]]
"""Title, header, rows."""


def loss_table(num_states: int, repeats: int) -> Table:
    """Losses of given logits, without and with the draw of times and noisy data."""
    shape = SHAPES[num_states]
    header = ["noise", "loss", "ms", "/ cross-entropy", "/ d3pm", "ms with draw", "/ d3pm", "nats"]
    rows = []
    for noise in KERNELS:
        found, refused = methods(noise, num_states)
        leaf = torch.randn(*shape, num_states, requires_grad=True)
        x0 = torch.randint(num_states - 1, shape)
        t, x_t = found[0].draw(x0)

        def floor(logits: Tensor, x0: Tensor = x0) -> Tensor:
            return F.cross_entropy(logits.flatten(0, -2), x0.flatten())

        def at(method: Method, logits: Tensor, x0: Tensor = x0, x_t: Tensor = x_t, t: Tensor = t) -> Tensor:
            return method.loss(logits, x0, x_t, method.when(t))

        def drawn(method: Method, logits: Tensor, x0: Tensor = x0) -> Tensor:
            t, x_t = method.draw(x0)
            return method.loss(logits, x0, x_t, t)

        plain = {m.name: partial(from_logits, leaf, partial(at, m)) for m in found}
        whole = {m.name: partial(from_logits, leaf, partial(drawn, m)) for m in found}
        ms = alternate({"cross-entropy": partial(from_logits, leaf, floor), **plain}, repeats)
        with_draw = alternate(whole, repeats)
        base, floor_ms = found[0].name, ms["cross-entropy"]
        nats = f"{float(floor(leaf.detach())):.5f}"
        rows.append(
            [noise, "cross-entropy", f"{floor_ms:.2f}", "1", f"{floor_ms / ms[base]:.2f}", "", "", nats]
        )
        for m in found:
            nats = f"{float(at(m, leaf.detach().clone())):.5f}"
            both = (ms[m.name], floor_ms), (ms[m.name], ms[base])
            row = [noise, m.name, f"{ms[m.name]:.2f}", *(f"{a / b:.2f}" for a, b in both)]
            drawing = [f"{with_draw[m.name]:.2f}", f"{with_draw[m.name] / with_draw[base]:.2f}"]
            rows.append([*row, *drawing, nats])
        rows += [[noise, name, reason, *[""] * 5] for name, reason in refused.items()]
    return f"Losses from logits, K = {num_states}, {list(shape)}, forward and backward", header, rows


def step_table(num_states: int, repeats: int) -> Table:
    """Whole training steps: times, noisy data, network, loss, gradient, optimizer."""
    shape, dim, depth = STEP_SHAPES[num_states]
    x0 = torch.randint(num_states - 1, shape)
    rows = []
    for noise in KERNELS:
        found, refused = methods(noise, num_states)
        network = TransformerDenoiser(num_states, dim=dim, depth=depth, heads=4)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)

        def theirs(
            method: Method,
            network: TransformerDenoiser = network,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> None:
            t, x_t = method.draw(x0)
            method.loss(network(x_t, t), x0, x_t, t).backward()
            optimizer.step()
            optimizer.zero_grad()

        def mine(
            objective: Objective,
            process: DiscreteDiffusion,
            network: TransformerDenoiser = network,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> None:
            (objective(process, network, x0).sum() / x0.numel()).backward()
            optimizer.step()
            optimizer.zero_grad()

        process = DiscreteDiffusion(KERNELS[noise](num_states, NUM_STEPS))
        objectives = [VariationalBound(), AuxiliaryBound(), ContinuousTimeBound()]
        cases = {f"d3pm {type(o).__name__}": partial(mine, o, process) for o in objectives}
        cases |= {m.name: partial(theirs, m) for m in found if not m.name.startswith("d3pm")}
        ms = alternate({name: partial(timed, case) for name, case in cases.items()}, repeats)
        base = ms["d3pm VariationalBound"]
        rows += [[noise, name, f"{value:.1f}", f"{value / base:.3f}"] for name, value in ms.items()]
        rows += [[noise, name, reason, ""] for name, reason in refused.items()]
    title = f"Training steps, K = {num_states}, {list(shape)}, transformer {depth} x {dim}, fused AdamW"
    return title, ["noise", "loss", "ms", "/ d3pm"], rows


# The Gaussian wing


class Given(nn.Module):
    """A network of one parameter, so that what is timed is all but the network."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.1))

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The input, scaled."""
        return self.scale * x_t


class Guest(nn.Module):
    """A network as denoising-diffusion-pytorch expects it: told of its channels, and time counted from 0."""

    channels = out_dim = IMAGES[1]
    self_condition = False

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, x_self_cond: None = None) -> Tensor:
        """What the network says of x at step t + 1."""
        return self.network(x, t + 1)


Cases = dict[str, tuple[Callable[[], Tensor], Callable[[], object]]]
"""By package: a draw of the loss, and ten steps of DDIM."""


def our_ddpm(network: nn.Module, x0: Tensor) -> Cases:
    """The simple loss, and DDIM in the reverse loop."""
    process = GaussianDiffusion(LinearSchedule(), NUM_STEPS)
    times = list(range(NUM_STEPS, -1, -NUM_STEPS // DDIM_STEPS))
    objective, sampler = SimpleError(), DDIM()

    def chain() -> Tensor:
        with torch.no_grad():
            return sample(process, network, x0.shape, steps=times, sampler=sampler)

    return {"d3pm": (lambda: objective(process, network, x0).sum() / x0.numel(), chain)}


def diffusers_ddpm(network: nn.Module, x0: Tensor) -> Cases:
    """Schedulers of diffusers, in the loops its documentation shows."""
    from diffusers import DDIMScheduler, DDPMScheduler

    noising = DDPMScheduler(NUM_STEPS)
    scheduler = DDIMScheduler(NUM_STEPS, clip_sample=True)
    scheduler.set_timesteps(DDIM_STEPS)

    def loss() -> Tensor:
        noise, t = torch.randn_like(x0), torch.randint(NUM_STEPS, x0.shape[:1])
        return F.mse_loss(network(noising.add_noise(x0, noise, t), t + 1), noise)

    def chain() -> Tensor:
        x = torch.randn_like(x0)
        with torch.no_grad():
            for t in scheduler.timesteps:
                x = scheduler.step(network(x, (t + 1).expand(len(x))), t, x).prev_sample
        return x

    return {"diffusers": (loss, chain)}


def lucid_ddpm(network: nn.Module, x0: Tensor) -> Cases:
    """Phil Wang's package; it wants torchvision for folders of pictures alone, so a stand-in will do."""
    import transformers  # noqa: F401 # looks for torchvision too, and should find what there is

    stand_in = types.ModuleType("torchvision")
    stand_in.__dict__.update(transforms=None, utils=None)
    with mock.patch.dict(sys.modules, torchvision=stand_in):
        from denoising_diffusion_pytorch import denoising_diffusion_pytorch as lucid
    lucid.tqdm = lambda steps, **_: steps  # no bar
    guest = Guest(network)
    settings = {"objective": "pred_noise", "beta_schedule": "linear", "auto_normalize": False}
    model = lucid.GaussianDiffusion(
        guest, image_size=IMAGES[-1], timesteps=NUM_STEPS, sampling_timesteps=DDIM_STEPS, **settings
    )
    return {"denoising-diffusion-pytorch": (lambda: model(x0), lambda: model.ddim_sample(tuple(x0.shape)))}


def gaussian_table(repeats: int) -> Table:
    """The loss of DDPM with its gradient, and ten steps of DDIM."""
    config = {"sample_size": IMAGES[-1], "block_out_channels": [32, 64], "norm_num_groups": 8}
    blocks = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    networks = {
        "none": Given(),
        "U-Net": DiffusersUNet({**config, **blocks, "layers_per_block": 1, "add_attention": False}),
    }
    x0 = torch.rand(IMAGES) * 2 - 1
    rows = []
    for network_name, network in networks.items():
        packages: Cases = {}
        for source in (our_ddpm, diffusers_ddpm, lucid_ddpm):
            try:
                packages |= source(network, x0)
            except ImportError as error:
                absent(source.__name__, error)

        def learn(loss: Callable[[], Tensor], network: nn.Module = network) -> None:
            loss().backward()
            network.zero_grad()

        losses = alternate({n: partial(timed, partial(learn, c[0])) for n, c in packages.items()}, repeats)
        chains = alternate({n: partial(timed, c[1]) for n, c in packages.items()}, repeats)
        for name in packages:
            both = [(each[name], each["d3pm"]) for each in (losses, chains)]
            rows.append(
                [network_name, name, *(text for a, b in both for text in (f"{a:.2f}", f"{a / b:.2f}"))]
            )
    title = f"DDPM's loss with its gradient, and {DDIM_STEPS} steps of DDIM, {list(IMAGES)}"
    return title, ["network", "package", "loss ms", "/ d3pm", "DDIM ms", "/ d3pm"], rows


# The part of the process


def share_table(repeats: int) -> Table:
    """What is not the network in a training step at 85 M parameters: 12 x 768, rows of 256 characters."""
    rows = []
    for noise, num_states in (("mask", 28), ("uniform", 27)):
        x0 = torch.randint(27, (4, 256))
        process = DiscreteDiffusion(KERNELS[noise](num_states, NUM_STEPS))
        network = TransformerDenoiser(num_states, dim=768, depth=12, heads=12)
        optimizer = torch.optim.AdamW(network.parameters(), fused=True)
        logits = torch.randn(*x0.shape, num_states, requires_grad=True)

        def part(process: DiscreteDiffusion = process, x0: Tensor = x0, logits: Tensor = logits) -> None:
            VariationalBound()(process, lambda x_t, t: logits, x0).sum().backward()

        def step(
            process: DiscreteDiffusion = process,
            x0: Tensor = x0,
            network: TransformerDenoiser = network,
            optimizer: torch.optim.Optimizer = optimizer,
        ) -> None:
            VariationalBound()(process, network, x0).sum().backward()
            optimizer.step()
            optimizer.zero_grad()

        ms = alternate({"part": partial(timed, part), "step": partial(timed, step)}, repeats)
        size = sum(p.numel() for p in network.parameters()) / 1e6
        percent = f"{100 * ms['part'] / ms['step']:.2f} %"
        rows.append([noise, f"{size:.0f} M", f"{ms['part']:.2f}", f"{ms['step']:.0f}", percent])
    title = "The process in a training step, 12 x 768, batch 4 x 256 characters"
    return title, ["noise", "parameters", "process ms", "step ms", "share"], rows


def show(table: Table, markdown: bool) -> None:
    """Print a table, as markdown or in columns."""
    title, header, rows = table
    print(f"\n{title}\n")
    if markdown:
        lines = [header, ["---"] * len(header), *rows]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines), flush=True)
        return
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    for line in [header, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)), flush=True)


def main() -> None:
    """Run what is asked for."""
    sections = ("losses", "steps", "gaussian", "share")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--only", nargs="+", choices=sections, default=sections)
    parser.add_argument("--states", nargs="+", type=int, choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--markdown", action="store_true", help="tables as docs/benchmarks.md has them")
    parser.add_argument(
        "--cpu", action="store_true", help="CPU time of all threads: for a busy machine, with --threads 1"
    )
    args = parser.parse_args()
    global CLOCK
    CLOCK = time.process_time if args.cpu else time.perf_counter
    keep_pages()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    machine = platform.processor() or platform.machine()
    today = datetime.date.today().isoformat()
    print(f"{today}, torch {torch.__version__}, {args.threads} threads, {machine}")
    clock = "CPU time" if args.cpu else "wall clock"
    print(f"{clock}, medians of {args.repeats} alternating rounds, T = {NUM_STEPS}", flush=True)
    if "losses" in args.only:
        for num_states in args.states:
            show(loss_table(num_states, args.repeats), args.markdown)
    if "steps" in args.only:
        for num_states in STEP_SHAPES:
            show(step_table(num_states, args.repeats), args.markdown)
    if "gaussian" in args.only:
        show(gaussian_table(args.repeats), args.markdown)
    if "share" in args.only:
        show(share_table(max(3, args.repeats // 10)), args.markdown)


if __name__ == "__main__":
    main()

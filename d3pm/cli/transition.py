"""``d3pm transition absorbing --num-states 5 --num-steps 10``: look at a kernel before training with it."""

import importlib
import inspect
import pkgutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

import d3pm.transitions
from d3pm.cli.parser import Parser, did_you_mean
from d3pm.cli.targets import check_new
from d3pm.errors import ConfigError
from d3pm.specs import find_class
from d3pm.transitions import Transition, retained
from d3pm.transitions.laws import checked_law

MAX_NUMBERS = 2**27  # in matrices made at once: 1 GiB of float64
MAX_SHOWN = 12  # states of a matrix that are printed
DESCRIPTION = """Print a kernel's matrices Q_t and Qbar_t = Q_1 ... Q_t, how fast it mixes towards pi, and how much of
the data is left at a time, I(x_t; x_0) / H(x_0).

KERNEL is a file of d3pm/transitions, such as absorbing or discretized-gaussian, or a class path, such as mine.MyKernel.
`d3pm transition KERNEL --help` lists its own options too: the arguments of its constructor."""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    kernel = find_kernel(argv[0]) if argv and not argv[0].startswith("-") else None
    parser = Parser(prog="d3pm transition", description=DESCRIPTION)
    parser.add_argument("kernel", metavar="KERNEL", help="file of d3pm/transitions, or class path")
    parser.add_argument("--t", type=int | None, help="time of the printed matrices; null: T/2")
    parser.add_argument("--plot", type=str | None, help="draw the matrices and the mixing into this picture")
    parser.add_argument("--save", type=str | None, help="write Q_t, (T, K, K), into this .safetensors file")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")
    parser.add_argument(
        "--unigram",
        type=list[float] | None,
        help="law of the data, [p_1, ...]; null: every state but a mask alike",
    )
    names = [] if kernel is None else parser.add_class_arguments(kernel)
    config = parser.instantiate(parser.parse_args(argv))
    transition = (kernel or find_kernel(config.kernel))(**{name: config[name] for name in names})
    check_new(config.plot, "--plot", (".png", ".pdf", ".svg"), config.overwrite)
    check_new(config.save, "--save", ".safetensors", config.overwrite)
    law = unigram(transition, config.unigram)
    show(transition, config.t, law)
    if config.save:
        save(transition, Path(config.save))
    if config.plot:
        plot(transition, config.t, law, Path(config.plot))
    return 0


def kernels() -> dict[str, type[Transition]]:
    """The kernels of the package by the file they stand in; a new file is found unasked."""
    found: dict[str, type[Transition]] = {}
    for info in pkgutil.iter_modules(d3pm.transitions.__path__):
        module = importlib.import_module(f"d3pm.transitions.{info.name}")
        for value in vars(module).values():
            if isinstance(value, type) and _is_kernel(value) and value.__module__ == module.__name__:
                found[info.name] = value
    return found


def find_kernel(name: str) -> type[Transition]:
    """The class that ``name`` means.

    Raises:
        ConfigError: If it is neither a file of ``d3pm/transitions`` with a kernel nor the path of one.
    """
    known = kernels()
    if name.replace("-", "_") in known:
        return known[name.replace("-", "_")]
    with suppress(ConfigError):
        kernel = find_class(name)
        if _is_kernel(kernel):
            return kernel
    raise ConfigError(f"there is no kernel {name}{did_you_mean(name, known)} (kernels: {', '.join(known)})")


def _is_kernel(value: object) -> bool:
    """Whether it is a kernel one can make: the bases in between have no constructor a user could fill in."""
    return inspect.isclass(value) and issubclass(value, Transition) and not inspect.isabstract(value)


def matrices(transition: Transition, s: Tensor, t: Tensor) -> Tensor:
    r"""Dense :math:`Q_{s+1} \cdots Q_t`, (B, K, K).

    Raises:
        ConfigError: If they would take more than a gigabyte.
    """
    size, states = len(s) * transition.num_states**2, transition.num_states
    if size > MAX_NUMBERS:
        raise ConfigError(
            f"num_states is {states}: dense, {len(s)} of its matrices take {size * 8 / 2**30:.1f} GiB: "
            "look at fewer states, a kernel has the same form at any size"
        )
    return transition.between(s, t).dense()


def mixing(transition: Transition, times: Tensor) -> Tensor:
    r"""How far from :math:`\pi` the worst start is: :math:`\max_i \mathrm{TV}(\bar Q_t[i, :], \pi)`, (B,)."""
    law = transition.stationary()
    return torch.stack(
        [(matrices(transition, t * 0, t)[0] - law).abs().sum(-1).max() / 2 for t in times.split(1)]
    )


def unigram(transition: Transition, given: Sequence[float] | None) -> Tensor:
    """The law of the data over all states, (K,).

    Raises:
        ConfigError: If it is no law of so many states.
    """
    states, mask = transition.num_states, transition.mask_state
    if given is None:
        law = torch.ones(states, dtype=torch.float64)
        law[[] if mask is None else [mask]] = 0.0
        return law / law.sum()
    law = checked_law(torch.tensor(given, dtype=torch.float64), "--unigram")
    if len(law) != states:
        raise ConfigError(f"--unigram has {len(law)} entries: the kernel has {states} states")
    return law


def show(transition: Transition, t: int | None, law: Tensor) -> None:
    """Print the matrices at t, the stationary law and a table of the mixing."""
    time = _time(transition, t)
    parts = [str(transition)]
    for name, s in (("Q", time - 1), ("Qbar", time * 0)):
        parts.append(f"{name}_{int(time)} =\n{_text(matrices(transition, s, time)[0])}")
    parts.append(f"pi = {_text(transition.stationary())}")
    times = torch.linspace(0, transition.num_steps, min(transition.num_steps, 10) + 1).round().long()
    rows = zip(
        times.tolist(), mixing(transition, times).tolist(), remaining(transition, law, times), strict=True
    )
    head = "   t   max_i TV(Qbar_t[i, :], pi)   I(x_t; x_0) / H(x_0)"
    parts.append("\n".join([head, *(f"{at:4d}   {far:.6f}{'':19}{share:.6f}" for at, far, share in rows)]))
    print("\n\n".join(parts))


def remaining(transition: Transition, law: Tensor, times: Tensor) -> list[float]:
    """I/H at these times; nothing is left of data that have one state only."""
    matrices(transition, times[:1] * 0, times[:1])  # refuses what is too large
    if int((law > 0).sum()) < 2:
        return [0.0] * len(times)
    return retained(transition, law, times).tolist()


def _time(transition: Transition, t: int | None) -> Tensor:
    t = (transition.num_steps + 1) // 2 if t is None else t
    if not 1 <= t <= transition.num_steps:
        raise ConfigError(f"--t is {t}: give a time from 1 to num_steps ({transition.num_steps})")
    return torch.tensor([t])


def _text(matrix: Tensor) -> str:
    """A matrix as text, its first states only where there are many."""
    corner = matrix[tuple(slice(MAX_SHOWN) for _ in matrix.shape)]
    rows = "\n".join(
        "  ".join(f"{p:.4f}" for p in row) for row in corner.reshape(-1, corner.shape[-1]).tolist()
    )
    return (
        rows
        if matrix.shape == corner.shape
        else f"{rows}\n(the first {MAX_SHOWN} of {matrix.shape[-1]} states)"
    )


def save(transition: Transition, file: Path) -> None:
    """Write every Q_t, (T, K, K) float64, as ``MatrixTransition`` reads it."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    t = torch.arange(transition.num_steps + 1)
    steps = matrices(transition, t[:-1], t[1:])
    try:
        save_file({"matrices": steps.contiguous()}, file)
    except SafetensorError as error:
        raise ConfigError(f"--save {file}: cannot be written ({error}): name another file") from error
    print(f"\nQ {tuple(steps.shape)} written to {file}: MatrixTransition({str(file)!r}) reads it")


def plot(transition: Transition, t: int | None, law: Tensor, file: Path) -> None:
    """Draw Q_t, Qbar_t and the mixing side by side."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    time = _time(transition, t)
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, name, s in ((left, "Q", time - 1), (middle, r"\bar{Q}", time * 0)):
        image = axes.imshow(matrices(transition, s, time)[0], vmin=0, cmap="viridis")
        axes.set(title=f"${name}_{{{int(time)}}}$", xlabel="to", ylabel="from")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))  # states are whole
        figure.colorbar(image, ax=axes, shrink=0.8)
    times = torch.linspace(0, transition.num_steps, min(transition.num_steps, 100) + 1).round().long()
    right.plot(times, mixing(transition, times), label=r"worst distance to $\pi$ (total variation)")
    right.plot(times, remaining(transition, law, times), label=r"what is left, $I(x_t; x_0) / H(x_0)$")
    right.set(title="forgetting", xlabel="t", ylim=(0, None))
    right.legend(fontsize=8)
    figure.savefig(file, dpi=150)
    print(f"\ndrawn in {file}")

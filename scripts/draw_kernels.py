"""Draw every kernel: its matrices at a few times, and how fast it forgets. Two pictures for docs/kernels.md.

python scripts/draw_kernels.py --output docs/pictures
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from d3pm.data import ImageData, TextData, frequencies
from d3pm.schedules import MutualInformationSchedule
from d3pm.transitions import (
    AbsorbingTransition,
    BandDiagonalTransition,
    DiscretizedGaussianTransition,
    GeneratorTransition,
    HierarchicalTransition,
    HybridTransition,
    MarginalTransition,
    NearestNeighborTransition,
    Transition,
    UniformTransition,
    retained,
)

STATES, STEPS, SHARES = 17, 100, (0.9, 0.5, 0.1)


def kernels(law: Tensor) -> dict[str, Transition]:
    """One of each on 17 states (18 with a mask), by the defaults of its class."""
    line = torch.arange(STATES, dtype=torch.float64)[:, None]
    ring = torch.zeros(STATES, STATES, dtype=torch.float64)
    ring[torch.arange(STATES), torch.arange(1, STATES + 1) % STATES] = 1.0
    return {
        "absorbing": AbsorbingTransition(STATES + 1, STEPS),
        "hybrid": HybridTransition(STATES + 1, STEPS),
        "uniform": UniformTransition(STATES, STEPS),
        "marginal": MarginalTransition(law, STEPS),
        "discretized Gaussian": DiscretizedGaussianTransition(STATES, STEPS),
        "band, v = 8": BandDiagonalTransition(STATES, STEPS, width=8),
        "nearest neighbour, k = 3": NearestNeighborTransition(line, STEPS, num_neighbors=3),
        "hierarchical": HierarchicalTransition([0] * 6 + [1] * 6 + [2] * 5, STEPS),
        "generator (a ring)": GeneratorTransition(ring - torch.eye(STATES).double(), STEPS),
    }


def padded(law: Tensor, kernel: Transition) -> Tensor:
    """The law with a zero for the mask, where there is one."""
    return torch.cat([law, law.new_zeros(kernel.num_states - len(law))])


def draw_matrices(found: dict[str, Transition], law: Tensor, file: Path) -> None:
    r"""Each kernel's :math:`\bar Q_t` where about 90, 50 and 10 % of the information is left."""
    figure = Figure(figsize=(1.7 * len(found), 5.4), layout="constrained")
    rows = figure.subplots(len(SHARES), len(found))
    for column, (name, kernel) in enumerate(found.items()):
        left = retained(kernel, padded(law, kernel))
        for row, share in enumerate(SHARES):
            t = int((left - share).abs().argmin())
            zero, time = torch.tensor([0]), torch.tensor([t])
            axes = rows[row][column]
            axes.imshow(kernel.between(zero, time).dense()[0].pow(0.5), vmin=0, vmax=1, cmap="viridis")
            axes.set(xticks=[], yticks=[], xlabel=f"t = {t}, {float(left[t]):.0%} left")
        rows[0][column].set_title(name, fontsize=9)
    figure.savefig(file, dpi=110)


def draw_information(laws: dict[str, Tensor], file: Path) -> None:
    """I(x_t; x_0) / H(x_0) over t for each kernel, by its default schedule."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    for axes, (name, law) in zip(figure.subplots(1, len(laws), sharey=True), laws.items(), strict=True):
        for label, kernel in kernels_on(law).items():
            axes.plot(retained(kernel, padded(law, kernel)), label=label)
        probe = DiscretizedGaussianTransition(len(law), STEPS)
        schedule = MutualInformationSchedule(law, probe)
        informed = DiscretizedGaussianTransition(len(law), STEPS, schedule)
        axes.plot(retained(informed, law), "k:", label="discretized Gaussian, by information")
        axes.set(title=name, xlabel="t", xlim=(0, STEPS), ylim=(0, 1))
    axes.legend(fontsize=7)
    figure.supylabel(r"$I(x_t; x_0)\,/\,H(x_0)$")
    figure.savefig(file, dpi=130)


def kernels_on(law: Tensor) -> dict[str, Transition]:
    """Kernels that are defined for any number of states."""
    size = len(law)
    points = torch.randn(size, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {
        "absorbing": AbsorbingTransition(size + 1, STEPS),
        "hybrid": HybridTransition(size + 1, STEPS),
        "uniform": UniformTransition(size, STEPS),
        "marginal": MarginalTransition(law, STEPS),
        "discretized Gaussian": DiscretizedGaussianTransition(size, STEPS),
        "band, v = K/2": BandDiagonalTransition(size, STEPS),
        "nearest neighbour (random points)": NearestNeighborTransition(points, STEPS, num_neighbors=4),
        "hierarchical": HierarchicalTransition([i // 6 for i in range(size)], STEPS),
    }


def unigram(data: ImageData | TextData) -> Tensor:
    return frequencies(data.split("train"), data.codec.num_symbols, data.codec)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"))
    folder = parser.parse_args().output
    digits = unigram(ImageData("digits", discrete=True))
    text = unigram(TextData(source="pydoc", block_size=64))
    draw_matrices(kernels(digits), digits, folder / "kernels.png")
    draw_information({"digits, K = 17": digits, "text, K = 27": text}, folder / "information.png")


if __name__ == "__main__":
    main()

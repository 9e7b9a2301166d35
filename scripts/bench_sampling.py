"""Every sampler on one text model: quality, network calls and seconds at each number of steps; what caching saves;
what a step costs outside the network.

    python scripts/bench_sampling.py quality runs/text8-small --output runs/bench-sampling
    python scripts/bench_sampling.py table runs/bench-sampling --plot docs/pictures/sampling.png
    python scripts/bench_sampling.py savings runs/text8-small --num 64 --steps 1000
    python scripts/bench_sampling.py overhead runs/text8-small

``quality`` writes one line of JSON a cell, so whoever stops it goes on where it stopped, and ``table`` can be drawn at
any time. Texts are judged by a 6-gram model of the training text, as in ``d3pm evaluate --samples``, and by a causal
language model too if ``--language-model`` names one (a folder, or FOLDER/FILE.gguf).
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from d3pm import AbsorbingTransition, DiscreteDiffusion
from d3pm.cli.choices import find_grid
from d3pm.cli.experiment import load_data
from d3pm.cli.model import load_model
from d3pm.discrete.confidence import Confidence
from d3pm.discrete.ddim import CategoricalDDIM
from d3pm.discrete.entropy_bounded import EntropyBounded
from d3pm.discrete.first_hitting import FirstHitting
from d3pm.discrete.greedy import Greedy
from d3pm.discrete.predictor_corrector import PredictorCorrector
from d3pm.discrete.remasking import Remasking
from d3pm.discrete.tau_leaping import TauLeaping
from d3pm.discrete.tweedie import Tweedie
from d3pm.evaluation import LanguageModel, TextReference
from d3pm.model import DiffusionModel
from d3pm.networks import TransformerDenoiser
from d3pm.sampling import Ancestral, Sampler, draw

STEPS = (8, 16, 32, 64, 256, 1000)
ROWS = 8_192
"""Rows a cell sends through the network at most, so that all cells cost alike: texts are few where steps are many."""
TEXTS = (16, 64)
"""Texts of a cell, least and most."""
TRAIN, HELD_OUT = 16_000, 512
"""Blocks of text that the reference is fitted on, and that samples are compared with."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A sampler of the table.

    Attributes:
        name: Its row.
        sampler: Takes the steps.
        grid: Where they lie.
        exact: Whether it draws from the model's own law, up to the size of the steps.
        adaptive: Whether it takes as many calls as it needs, whatever the number of steps.
    """

    name: str
    sampler: Sampler
    grid: str = "uniform"
    exact: bool = True
    adaptive: bool = False


ENTRIES = (
    Entry("first hitting", FirstHitting(), adaptive=True),
    Entry("ancestral", Ancestral()),
    Entry("ancestral, cosine grid", Ancestral(), "cosine"),
    Entry("ancestral, optimal grid", Ancestral(), "optimal"),
    Entry("Tweedie", Tweedie()),
    Entry("tau-leaping", TauLeaping()),
    Entry("predictor-corrector", PredictorCorrector()),
    Entry("categorical DDIM, eta 0.5", CategoricalDDIM(eta=0.5)),
    Entry("remasking, cap 0.02", Remasking(strategy="cap", eta=0.02)),
    Entry("remasking, rescale 0.05", Remasking(strategy="rescale", eta=0.05)),
    Entry("remasking, loop 0.02", Remasking(strategy="loop", eta=0.02)),
    Entry("confidence, probability", Confidence(order="probability"), exact=False),
    Entry("confidence, margin", Confidence(order="margin"), exact=False),
    Entry("confidence, entropy", Confidence(order="entropy"), exact=False),
    Entry("entropy-bounded, 0.1", EntropyBounded(gamma=0.1), exact=False, adaptive=True),
    Entry("entropy-bounded, 1", EntropyBounded(gamma=1.0), exact=False, adaptive=True),
    Entry("greedy", Greedy(), exact=False),
)


def quality(args: argparse.Namespace) -> None:
    """Measure every cell that is not measured yet, the cheap ones first."""
    model, home = load_model(args.run)
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "cells.jsonl"
    done = {(cell["sampler"], cell["steps"]) for cell in read(file)} if file.exists() else set()
    reference, real = fitted(model, home, args.language_model)
    with file.open("a") as out:
        if ("real text", None) not in done:
            put(out, {"sampler": "real text", "steps": None, **scores(reference, real)})
        for entry, steps in cells(model, args.steps):
            if (entry.name, steps) in done:
                continue
            put(out, measured(model, entry, steps, reference))


def cells(model: DiffusionModel, wanted: list[int]) -> Iterator[tuple[Entry, int | None]]:
    for entry in ENTRIES:
        if entry.adaptive:
            yield entry, None
    for steps in wanted:
        for entry in ENTRIES:
            planned = entry.grid != "optimal" or str(steps) in model.config.plans
            if not entry.adaptive and planned:
                yield entry, steps


def measured(
    model: DiffusionModel, entry: Entry, steps: int | None, reference: TextReference
) -> dict[str, Any]:
    num = TEXTS[0] if steps is None else min(max(ROWS // steps, TEXTS[0]), TEXTS[1])
    start = time.perf_counter()
    found = model.draw(
        num, steps=steps, sampler=entry.sampler, grid=find_grid(entry.grid, model), seed=0, batch_size=32
    )
    seconds = time.perf_counter() - start
    assert model.codec is not None
    return {
        "sampler": entry.name,
        "exact": entry.exact,
        "steps": steps,
        "texts": num,
        "calls": float(found.calls.double().mean()),
        "seconds": seconds / num,
        **scores(reference, model.codec.decode(found.x0.cpu())),
    }


def scores(reference: TextReference, texts: list[str]) -> dict[str, Any]:
    return {**reference.judge(texts).as_dict(), "first": texts[0]}


def fitted(model: DiffusionModel, home: Path, judge: str | None) -> tuple[TextReference, list[str]]:
    """The reference, and as many real texts as a cell has at most, which it has not seen."""
    data, codec = load_data(home / "config.yaml"), model.codec
    assert codec is not None

    def texts(split: str, first: int, count: int) -> list[str]:
        rows: Any = data.split(split)
        return codec.decode(torch.stack([rows[i]["x0"] for i in range(first, min(first + count, len(rows)))]))

    language = None if judge is None else LanguageModel.load(judge)
    reference = TextReference.fit(
        texts("train", 0, TRAIN), texts("test", 0, HELD_OUT), order=6, language_model=language
    )
    return reference, texts("test", HELD_OUT, TEXTS[1])


def savings(args: argparse.Namespace) -> None:
    """Rows sent through the network, of all that there are."""
    model, _ = load_model(args.run)
    shape = (args.length,) if args.length else model.shape
    found = model.draw(args.num, steps=args.steps, seed=0, shape=shape)
    rows = args.num * args.steps
    calls = float(found.calls.double().mean())
    print(
        f"{args.num} texts of {shape[0]}, {args.steps} steps: {int(found.calls.sum()):,} of {rows:,} rows went through "
        f"the network, {1 - float(found.calls.sum()) / rows:.1%} saved; {calls:.1f} calls a text, "
        f"{found.forwards} passes"
    )
    hitting = model.draw(args.num, sampler=FirstHitting(), seed=0, shape=shape)
    calls = float(hitting.calls.double().mean())
    print(f"first hitting: {calls:.1f} calls a text; {args.steps / calls:.2f} times fewer than steps")


def overhead(args: argparse.Namespace) -> None:
    """The share of a sampler's time that is not spent in the network."""
    model, _ = load_model(args.run)
    wide = TransformerDenoiser(50_258, dim=768, depth=12, heads=12, time_conditioned=False).eval()
    cases = (
        (f"K = {model.process.num_states}", model.process, model.network, (32, *model.shape), 32),  # type: ignore[attr-defined]
        ("K = 50,258", DiscreteDiffusion(AbsorbingTransition(50_258, 1000)), wide, (4, 128), 8),
    )
    print("| states | sampler | network, s | outside, s | share outside |\n|---|---|---|---|---|")
    for name, process, network, shape, steps in cases:
        for entry in ENTRIES:
            if entry.grid != "uniform" or entry.adaptive:
                continue
            clock = Clock(network)
            start = time.perf_counter()
            generator = torch.Generator().manual_seed(0)
            draw(process, clock, shape, steps=steps, sampler=entry.sampler, generator=generator)
            total = time.perf_counter() - start
            outside = total - clock.seconds
            print(
                f"| {name} | {entry.name} | {clock.seconds:.2f} | {outside:.2f} | {outside / total:.1%} |",
                flush=True,
            )


class Clock:
    """A network that adds up the seconds it takes."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network, self.seconds = network, 0.0
        self.time_conditioned = getattr(network, "time_conditioned", True)

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        output = self.network(x_t, t)
        self.seconds += time.perf_counter() - start
        return output


COLUMNS = {
    "texts": ("texts", "{:.0f}"),
    "calls": ("calls", "{:.1f}"),
    "seconds": ("s/text", "{:.2f}"),
    "bits_per_character": ("6-gram bits/char", "{:.3f}"),
    "language_model_bits_per_character": ("language model bits/char", "{:.3f}"),
    "unigram_entropy": ("entropy", "{:.3f}"),
    "known_words": ("words known", "{:.3f}"),
    "distinct_2": ("distinct-2", "{:.3f}"),
    "divergence_4": ("4-gram divergence", "{:.3f}"),
}


def table(args: argparse.Namespace) -> None:
    """Print the cells as Markdown; draw them."""
    found = sorted(read(args.output / "cells.jsonl"), key=lambda cell: cell["steps"] or 0)
    shown = {key: value for key, value in COLUMNS.items() if any(key in cell for cell in found)}
    print("| sampler | steps | " + " | ".join(name for name, _ in shown.values()) + " |")
    print("|---" * (2 + len(shown)) + "|")
    for cell in found:
        numbers = [form.format(cell[key]) if key in cell else "" for key, (_, form) in shown.items()]
        print(f"| {cell['sampler']} | {cell['steps'] or '–'} | " + " | ".join(numbers) + " |")
    if args.plot:
        plot(found, args.plot)


PANELS = {
    "bits_per_character": "bits a character under a 6-gram model of the training text",
    "known_words": "share of words that the training text has",
    "unigram_entropy": "entropy of single characters, bits",
}
DULL = 3.5
"""Entropy, in bits a character, below which a text repeats itself: such cells are in the table only."""


def plot(found: list[dict[str, Any]], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(16, 5.5), layout="constrained")
    colours = plt.get_cmap("tab20")
    cells = [c for c in found if "calls" in c and c["unigram_entropy"] > DULL]
    names = list(dict.fromkeys(cell["sampler"] for cell in cells))
    for axis, (key, title) in zip(axes, PANELS.items(), strict=True):
        for i, name in enumerate(names):
            mine = sorted((c for c in cells if c["sampler"] == name), key=lambda c: c["calls"])
            alone = len(mine) == 1
            axis.plot(
                [c["calls"] for c in mine],
                [c[key] for c in mine],
                marker="*" if alone else "o",
                markersize=12 if alone else 5,
                linestyle="-" if mine[0]["exact"] else "--",
                color=colours(i % 20),
                label=name,
            )
        for cell in found:
            if cell["sampler"] == "real text":
                axis.axhline(cell[key], color="black", linewidth=0.8, label="real text")
        axis.set(xscale="log", xlabel="network calls a text", title=title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    figure.savefig(file, dpi=80)
    print(file)


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def put(out: Any, cell: dict[str, Any]) -> None:
    out.write(json.dumps(cell) + "\n")
    out.flush()
    known = {k: round(v, 3) for k, v in cell.items() if isinstance(v, float)}
    print(cell["sampler"], cell["steps"], known, cell["first"][:60], sep="  ", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    for function in (quality, savings, overhead):
        verb = verbs.add_parser(function.__name__, help=function.__doc__)
        verb.set_defaults(function=function)
        verb.add_argument("run", help="folder of a run")
        if function is quality:
            verb.add_argument("--output", type=Path, required=True)
            verb.add_argument("--steps", type=lambda text: [int(n) for n in text.split(",")], default=STEPS)
            verb.add_argument("--language-model")
        if function is savings:
            verb.add_argument("--num", type=int, default=64)
            verb.add_argument("--steps", type=int, default=1000)
            verb.add_argument("--length", type=int, help="symbols of a text; as in training if not given")
    verb = verbs.add_parser("table", help=table.__doc__)
    verb.set_defaults(function=table)
    verb.add_argument("output", type=Path)
    verb.add_argument("--plot", type=Path)
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()

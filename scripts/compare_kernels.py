"""One network, one budget, many kernels: what each is worth on held-out data.

    python scripts/compare_kernels.py digits --steps 1500 --output runs/kernels
    D3PM_DATA=folder-with-text8 python scripts/compare_kernels.py text8 --steps 1500 --output runs/kernels-text8

Every kernel is trained from the same config and seed for as many steps and then scored with every term of the bound
(digits) or by 64 of its times an example (text8). A run that is finished already is only read. The table is printed
as Markdown and drawn again after every kernel.
"""

import argparse
import contextlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from d3pm.cli import main as d3pm
from d3pm.cli.experiment import load_data
from d3pm.data import frequencies
from d3pm.transitions.cooccurrence import cooccurrence_embeddings

ROOT = Path(__file__).resolve().parents[1]
Config = dict[str, Any]
Change = Callable[[Config, list[float], Path], None]
NEIGHBOURS = "embeddings.npy"


def of(name: str, module: str = "transitions", **arguments: Any) -> Config:
    """A class path with arguments."""
    return {"class_path": f"d3pm.{module}.{name}", "init_args": arguments}


def informed(law: list[float], kernel: Config) -> Config:
    """The schedule along which the kernel loses information at one rate."""
    arguments = {**kernel["init_args"], "num_steps": 100}
    probe = {"class_path": kernel["class_path"], "init_args": arguments}
    return of("MutualInformationSchedule", "schedules", frequencies=law, transition=probe)


def kernel(name: str, schedule: str | None = None, mask: bool = False, **arguments: Any) -> Change:
    """Put a kernel in the place of the config's own; ``schedule`` is a class, ``"information"`` or the default."""

    def change(config: Config, law: list[float], folder: Path) -> None:
        states = len(law) + mask
        if name not in ("MarginalTransition", "NearestNeighborTransition"):
            arguments["num_states"] = states
        if name == "MarginalTransition":
            arguments["frequencies"] = law
        if name == "NearestNeighborTransition":
            arguments["embeddings"] = str(folder / NEIGHBOURS)
        found = of(name, **arguments)
        steps = config["process"]["init_args"]["transition"]["init_args"]["num_steps"]
        chosen = informed(law, found) if schedule == "information" else schedule and of(schedule, "schedules")
        found["init_args"] |= {"num_steps": steps} | ({"schedule": chosen} if chosen else {})
        config["process"]["init_args"]["transition"] = found
        resize(config, states, mask)

    return change


def resize(config: Config, states: int, mask: bool) -> None:
    """Let the network speak of as many states."""
    network = config["network"]["init_args"]
    network["num_states"] = states
    if "network" in network:  # a head around a network for pictures
        network["num_levels"] = states - mask
        network["network"]["init_args"]["in_channels"] = 1 + mask
    else:
        network["time_conditioned"] = True  # for all alike; masks tell it by themselves


def logistic(then: Change) -> Change:
    """The same, with the truncated logistic head."""

    def change(config: Config, law: list[float], folder: Path) -> None:
        then(config, law, folder)
        config["network"]["class_path"] = "d3pm.networks.TruncatedLogistic"
        config["network"]["init_args"]["network"]["init_args"]["out_channels"] = 2

    return change


DIGITS = {
    "uniform, cosine": kernel("UniformTransition", "UnsquaredCosineSchedule"),
    "uniform, information": kernel("UniformTransition", "information"),
    "Gaussian, information": kernel("DiscretizedGaussianTransition", "information"),
    "Gaussian, linear": kernel("DiscretizedGaussianTransition", "LinearSchedule"),
    "absorbing, 1/(T-t+1)": kernel("AbsorbingTransition", mask=True),
    "uniform, information, logistic head": logistic(kernel("UniformTransition", "information")),
    "Gaussian, information, logistic head": logistic(kernel("DiscretizedGaussianTransition", "information")),
    "hybrid (20 % uniform), linear": kernel("HybridTransition", mask=True),
    "marginal, information": kernel("MarginalTransition", "information"),
    "band (v = 8), information": kernel("BandDiagonalTransition", "information", width=8),
}
TEXT = {
    "absorbing, 1/(T-t+1)": kernel("AbsorbingTransition", mask=True),
    "hybrid (20 % uniform), linear": kernel("HybridTransition", mask=True),
    "marginal, information": kernel("MarginalTransition", "information"),
    "uniform, cosine": kernel("UniformTransition", "UnsquaredCosineSchedule"),
    "nearest neighbour (k = 5), information": kernel("NearestNeighborTransition", "information"),
}
BASES = {"digits": ("digits-gaussian", DIGITS), "text8": ("text8-small", TEXT)}


def run(config: Config, folder: Path, evaluation: list[str]) -> Config:
    """Train unless done, evaluate, and give the report."""
    result = folder / "report.json"
    if not result.exists():
        file = folder.parent / f"{folder.name}.yaml"
        file.write_text(yaml.safe_dump(config))
        started = time.perf_counter()
        if d3pm(["train", "--config", str(file), "--output", str(folder), "--resume", "auto"]):
            raise SystemExit(f"{folder.name} could not be trained: see above")
        minutes = (time.perf_counter() - started) / 60
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            d3pm(["evaluate", str(folder), "--json", *evaluation])
        found = json.loads(said.getvalue().strip().splitlines()[-1])
        result.write_text(json.dumps(found | {"minutes": minutes}))
    return json.loads(result.read_text())


def table(reports: dict[str, Config]) -> str:
    """Markdown."""
    names = ["prior", "diffusion", "reconstruction", "bits_per_dim"]
    lines = ["| kernel | L_T | diffusion | L_0 | bound | minutes |", "| --- | --- | --- | --- | --- | --- |"]
    for kernel_name, report in reports.items():
        numbers = " | ".join(f"{report[name]:.4f}" for name in names)
        lines.append(
            f"| {kernel_name} | {numbers} ± {report['standard_error']:.4f} | {report['minutes']:.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", choices=BASES)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--form", choices=["mixture", "d3pm"], default="mixture", help="of the reverse step")
    parser.add_argument("--only", help="the one kernel of this name")
    options = parser.parse_args()
    name, kernels = BASES[options.data]
    file = ROOT / "configs" / f"{name}.yaml"
    data = load_data(file)
    law = frequencies(data.split("train"), data.codec.num_symbols, data.codec)
    evaluation = ["--num-examples", "180", "--num-times", "99"]
    if options.data == "text8":
        evaluation = ["--num-examples", "256", "--num-times", "64"]
    options.output.mkdir(parents=True, exist_ok=True)
    if options.data == "text8":
        points = cooccurrence_embeddings(data.split("train").tokens, len(law), window=2, dim=16)
        np.save(options.output / NEIGHBOURS, points.numpy())
    reports = {}
    for kernel_name, change in kernels.items():
        if options.only and options.only != kernel_name:
            continue
        config = yaml.safe_load(file.read_text())
        config["training"] |= {"max_steps": options.steps, "eval_every": options.steps, "save_every": 500}
        config["process"]["init_args"]["reverse_form"] = options.form
        change(config, law.tolist(), options.output)
        slug = "".join(c if c.isalnum() else "-" for c in kernel_name.lower())
        reports[kernel_name] = run(config, options.output / slug, evaluation)
        print(f"\n{table(reports)}\n", flush=True)


if __name__ == "__main__":
    main()

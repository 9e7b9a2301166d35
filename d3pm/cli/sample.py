"""``d3pm sample RUN --num 4 --steps 64``: draw from a trained model, freely or around a prompt."""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from d3pm.cli.model import codec_of, load_model
from d3pm.cli.parser import Parser
from d3pm.cli.report import sample_lines
from d3pm.cli.screen import Screen
from d3pm.discrete.truncation import Truncated
from d3pm.errors import ConfigError
from d3pm.model import DiffusionModel
from d3pm.objectives import Network
from d3pm.sampling import cosine_grid, uniform_grid

GRIDS = {"uniform": uniform_grid, "cosine": cosine_grid}
DESCRIPTION = """Draw samples and print them, one a line.

  d3pm sample runs/first --num 4 --steps 64 --seed 1
  d3pm sample runs/first --prompt "the ___ of python is" --watch

RUN is the folder of a run or one of its checkpoints. In a prompt every _ is a blank to be filled in, and so
is all that follows the prompt. (Where _ is a symbol of the model, as in byte pairs, a blank is ░.)"""


def main(argv: Sequence[str]) -> int:
    """Run the verb."""
    parser = Parser(prog="d3pm sample", description=DESCRIPTION)
    parser.add_argument("run", metavar="RUN", type=str, help="folder of a run, or one of its checkpoints")
    parser.add_argument("--num", type=int, default=4, help="how many samples")
    parser.add_argument("--steps", type=int | None, default=None, help="network calls, at most T; null: T")
    parser.add_argument(
        "--grid", type=Literal["uniform", "cosine"], default="uniform", help="how steps lie in time"
    )
    parser.add_argument("--seed", type=int, default=0, help="equal seeds give equal samples")
    parser.add_argument("--temperature", type=float, default=1.0, help="below 1: likelier tokens")
    parser.add_argument(
        "--top_p", type=float, default=1.0, help="only the likeliest tokens of this mass in all"
    )
    parser.add_argument(
        "--prompt", type=str | None, help="text to keep, with _ where something is to be filled in"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="how many samples at a time")
    parser.add_argument("--watch", action="store_true", help="show the samples as they are denoised")
    parser.add_argument(
        "--output", type=str | None, help="write the samples to this file instead, one a line"
    )
    config = parser.parse_args(argv)
    model, _ = load_model(config.run)
    draw(model, config)
    return 0


def draw(model: DiffusionModel, config: Any) -> None:
    """Draw as the options say, and print or write the samples."""
    for name in ("num", "batch_size"):
        if config[name] < 1:
            raise ConfigError(f"--{name} is {config[name]}: give 1 or more")
    if config.output:
        check_writable(Path(config.output))
    screen = Screen()
    x = model.sample(
        config.num,
        steps=config.steps,
        seed=config.seed,
        batch_size=config.batch_size,
        network=sharpened(model, config.temperature, config.top_p),
        grid=GRIDS[config.grid],
        watch=watcher(model, screen) if config.watch else None,
        progress=not config.watch and sys.stderr.isatty(),
        **held(model, config.prompt, config.num),
    )
    texts = codec_of(model).decode(x)
    if config.output:
        lines = (" ".join(text.splitlines()) for text in texts)  # a sample may hold line ends of its own
        Path(config.output).write_text("".join(f"{line}\n" for line in lines))
    else:
        screen.show(sample_lines(texts))


def sharpened(model: DiffusionModel, temperature: float, top_p: float) -> Network:
    """The model's network, wrapped only where that changes its belief."""
    if temperature == 1 and top_p == 1:
        return model.network
    return Truncated(model.process, model.network, temperature, top_p)


def check_writable(file: Path) -> None:
    """Refuse a file that cannot be written before anything is drawn for it; touches nothing.

    Raises:
        ConfigError: If it is a folder, its folder does not exist, or either may not be written.
    """
    if file.is_dir():
        raise ConfigError(f"--output {file} is a folder: name a file in it")
    folder = file.resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"--output {file}: its folder does not exist; make it first")
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise ConfigError(f"--output {file} may not be written: name another file")


def watcher(model: DiffusionModel, screen: Screen) -> Callable[[int, Tensor], None]:
    """Shows the state after every step."""
    codec = codec_of(model)
    return lambda s, x: screen.show(f"t = {s}\n{sample_lines(codec.decode(x))}")


def held(model: DiffusionModel, prompt: str | None, num: int) -> dict[str, Any]:
    """What a prompt keeps: ``known`` and ``x0``, (num, L); nothing without a prompt.

    Raises:
        ConfigError: If the prompt is longer than a sample.
        DataError: If it holds a symbol that the model does not know.
    """
    if prompt is None:
        return {}
    x0, known = blanks(model, prompt)
    (length,) = model.shape
    if len(x0) > length:
        raise ConfigError(f"--prompt has {len(x0)} symbols, but a sample has {length}: shorten it")
    rest = length - len(x0)
    x0, known = (torch.nn.functional.pad(part, (0, rest)) for part in (x0, known))
    return {"x0": x0.expand(num, -1), "known": known.expand(num, -1)}


def blanks(model: DiffusionModel, prompt: str) -> tuple[Tensor, Tensor]:
    """The symbols of a prompt and which of them are given, (n,); a blank counts as one symbol."""
    codec = codec_of(model)
    sign = getattr(codec, "mask_sign", "_")
    blank = torch.zeros(1, dtype=torch.int64)
    parts = [codec.encode(part) for part in prompt.split(sign)]
    symbols, given = [parts[0]], [torch.ones_like(parts[0])]
    for part in parts[1:]:
        symbols += [blank, part]
        given += [blank, torch.ones_like(part)]
    return torch.cat(symbols), torch.cat(given).bool()

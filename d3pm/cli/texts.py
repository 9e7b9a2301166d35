"""Samples that are read: printed one a line, shown as they are denoised, or written to a file."""

from pathlib import Path
from typing import Any

from torch import Tensor

from d3pm.cli.forms import Draw, Form
from d3pm.cli.model import codec_of
from d3pm.cli.prompt import held
from d3pm.cli.report import sample_lines
from d3pm.cli.screen import Screen
from d3pm.cli.targets import check_writable
from d3pm.errors import ConfigError
from d3pm.model import DiffusionModel
from d3pm.objectives import Network


class Texts(Form):
    """Texts on the screen, or in a file."""

    few = 4
    name = "text"
    more = "--watch"
    options = ("prompt", "temperature", "top_p", "watch", "overwrite")

    def check(self, config: Any) -> None:
        """See the base class."""
        if config.output:
            check_writable(Path(config.output))
        if config.output and Path(config.output).exists() and not config.overwrite:
            raise ConfigError(
                f"--output {config.output} exists: name another file, or replace it with --overwrite"
            )

    def present(self, draw: Draw, config: Any, home: Path) -> None:
        """Print the samples, or write them."""
        model = draw.model
        codec, screen = codec_of(model), Screen()

        def show(s: float, x: Tensor) -> None:
            screen.show(f"t = {s}\n{sample_lines(codec.decode(x))}")

        x = draw(
            config.num,
            network=sharpened(model, config.temperature, config.top_p, draw.network),
            watch=show if config.watch else None,
            **held(model, config.prompt, config.num),
        )
        texts = codec.decode(x)
        if config.output:
            lines = (" ".join(text.splitlines()) for text in texts)  # a sample may hold line ends of its own
            Path(config.output).write_text("".join(f"{line}\n" for line in lines))
        else:
            screen.show(sample_lines(texts))

    def keep(self, items: list[str], folder: Path) -> str:
        """The texts themselves: they need no file."""
        return sample_lines(items)


def sharpened(
    model: DiffusionModel, temperature: float, top_p: float, network: Network | None = None
) -> Network:
    """The model's network (or a wrapper around it), wrapped only where that changes its belief."""
    network = network or model.network
    if temperature == 1 and top_p == 1:
        return network
    from d3pm.discrete.truncation import Truncated

    return Truncated(model.process, network, temperature, top_p)

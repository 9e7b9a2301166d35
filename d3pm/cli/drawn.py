"""What was drawn before somebody stopped it, and what it cost."""

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from d3pm.cli.forms import Draw
from d3pm.sampling import Samples


def drawn(draw: Draw, num: int, **more: Any) -> Samples:
    """``num`` samples; if it is stopped (Ctrl-C) after the first batch, those of the batches that are done.

    Several processes share the batches, and all of them get the samples; whoever is stopped has the first ones.
    """
    parts = draw.team.joined(until_stopped(draw.batches(num, **more)))
    if not parts:
        raise KeyboardInterrupt
    return Samples.cat(parts)


def until_stopped(work: Iterable[Any]) -> Iterator[Any]:
    """What is done before somebody presses Ctrl-C."""
    try:
        yield from work
    except KeyboardInterrupt:
        return


def tell(found: Samples, draw: Draw, num: int) -> None:
    """Say on standard error what samples cost, once they are safe; and how to get the rest, if some are missing.

    Raises:
        KeyboardInterrupt: If there are fewer than ``num``: somebody stopped it.
    """
    print(cost(found, draw.counted), file=sys.stderr)
    done = len(found.x0)
    if done < num:
        print(
            f"stopped: {done} of {num} samples are kept; draw the other {num - done} with another --seed and --output",
            file=sys.stderr,
        )
        raise KeyboardInterrupt


def cost(found: Samples, steps: int | None, what: str = "samples") -> str:
    """How many network calls samples took, and in how many steps unless their number says nothing.

    >>> import torch
    >>> cost(Samples(torch.zeros(2, 5), torch.tensor([3, 4]), 4), 64)
    '2 samples, 64 steps: 3.5 network calls each (4 passes)'
    >>> cost(Samples(torch.zeros(2, 5), torch.tensor([3, 4]), 4), None)
    '2 samples: 3.5 network calls each (4 passes)'
    """
    each = found.calls.double().mean().item()
    counted = [_many(len(found.calls), what), *([] if steps is None else [_many(steps, "steps")])]
    return f"{', '.join(counted)}: {each:.1f} network calls each ({_many(found.forwards, 'passes')})"


def _many(number: int, things: str) -> str:
    """A number of things, of which there may be but one."""
    return f"{number:,} {things.removesuffix('es' if things.endswith('sses') else 's') if number == 1 else things}"

"""Running out of memory, told in one line: how much was asked for, and what to lower."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from d3pm.errors import ConfigError

IN_BATCHES = ("sample", "evaluate", "plan-steps")
"""Verbs with a ``--batch-size``."""


@contextmanager
def short_of_memory(remedy: str) -> Iterator[None]:
    """Say ``remedy`` where a GPU or the machine runs out of memory.

    Raises:
        ConfigError: In place of what torch or Python raised.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        told = run_out(error)
        if told is None:
            raise
        raise ConfigError(f"{told}: {remedy}") from error


def run_out(error: Exception) -> str | None:
    """Which memory ran out and at what request, if that is what went wrong.

    >>> run_out(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."))
    'the GPU ran out of memory (2.00 GiB more were asked for)'
    >>> run_out(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes."))
    'the machine ran out of memory (4000000000 bytes more were asked for)'
    >>> run_out(RuntimeError("shapes do not fit"))
    """
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or re.search(
        "CUDA.*out of memory|CUBLAS_.*ALLOC_FAILED", text
    ):
        where = "the GPU"
    elif isinstance(error, MemoryError) or "can't allocate memory" in text:
        where = "the machine"
    else:
        return None
    asked = re.search(r"(?:[Tt]ried to|Unable to) allocate ([\d.]+ \w+)", text)
    return f"{where} ran out of memory" + (f" ({asked[1]} more were asked for)" if asked else "")


def smaller_batches(verb: str, argv: Sequence[str]) -> str:
    """What helps a verb but ``train``, which knows of more.

    >>> smaller_batches("sample", ["RUN", "--batch-size=64"])
    'lower --batch-size, now 64'
    """
    given = re.search(r"--batch[-_]size[= ](\S+)", " ".join(argv))
    if verb in IN_BATCHES:
        return (
            f"lower --batch-size, now {given[1]}"
            if given
            else "give a --batch-size below the default (see --help)"
        )
    return "ask for less: fewer states, steps or examples"


def smaller_micro_batches(micro: int, batch: int, processes: int) -> str:
    """What helps training; the steps stay those of the whole batch.

    >>> smaller_micro_batches(24, 48, 2)
    'training.micro_batch_size is 24: set it to 12, gradients are added up to training.batch_size = 48 all the same'
    """
    share = batch // processes
    fitting = [size for size in range(1, micro // 2 + 1) if share % size == 0]
    if fitting:
        return (
            f"training.micro_batch_size is {micro}: set it to {fitting[-1]}, gradients are added up to "
            f"training.batch_size = {batch} all the same"
        )
    return (
        "training.micro_batch_size is 1: set training.recompute, or make the network or its examples smaller"
    )

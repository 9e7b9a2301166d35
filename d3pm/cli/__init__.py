"""The command line, one verb a file. A verb is imported when it is called, so that help is quick."""

import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from d3pm.cli.memory import short_of_memory, smaller_batches
from d3pm.errors import ConfigError, D3PMError

VERBS = {
    "train": "train a model from a config, or go on with a run that was stopped",
    "sample": "draw from a trained model, freely or around a prompt",
    "evaluate": "the bound on bits per dimension of held-out data, term by term; or an accuracy",
    "plan-steps": "find where few steps lie best in time, and save that with the model",
    "demo": "a page in the browser: draw samples and see how they come about",
    "transition": "look at a kernel: its matrices and how fast it mixes",
    "schedule": "look at a noise schedule: what survives, and whether nothing is left in the end",
}

SHARED = ("train", "sample", "evaluate")
"""What several processes can share."""

HELP = "\n".join(
    [
        "usage: d3pm VERB ...",
        "",
        "Diffusion on discrete data (D3PM) and with Gaussian noise (DDPM).",
        "",
        *(f"  {verb:<11} {line}" for verb, line in VERBS.items()),
        "",
        "`d3pm VERB --help` tells more, e.g. `d3pm train --help`.",
    ]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code.

    A mistake of the user's, a file that cannot be read or written, or memory that does not suffice is one line on
    stderr and exit code 2. Anything else keeps its traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        if not argv or argv[0] in ("-h", "--help"):
            print(HELP, flush=True)
            return 0 if argv else 2
        _check_alone(argv[0])
        with short_of_memory(smaller_batches(argv[0], argv[1:])):
            return _verb(argv[0]).main(argv[1:])
    except D3PMError as error:
        complain(f"d3pm {argv[0]}: error: {' '.join(str(error).split())}")
        return 2
    except BrokenPipeError:  # whoever read the output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        complain(f"d3pm {argv[0]}: error: {' '.join(what.split())}")
        return 2
    except KeyboardInterrupt:
        complain(f"d3pm {argv[0]}: interrupted")
        return 130


def complain(line: str) -> None:
    """Say on standard error what is amiss: of the processes of ``torchrun`` the first one does.

    What is amiss in another one alone stands in what ``torchrun`` tells of it in the end.
    """
    file, first = os.environ.get("TORCHELASTIC_ERROR_FILE"), os.environ.get("RANK", "0") == "0"
    if file:
        when = {"py_callstack": line, "timestamp": str(int(time.time()))}
        Path(file).write_text(json.dumps({"message": {"message": line, "extraInfo": when}}))
    if first or not file:
        print(line, file=sys.stderr)


def _check_alone(verb: str) -> None:
    """Refuse several processes for what one does: all would do the same, and write the same files."""
    if verb in VERBS and verb not in SHARED and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("this is the work of one process: start it without torchrun")


def _verb(name: str):
    if name not in VERBS:
        from d3pm.cli.parser import did_you_mean

        raise ConfigError(f"there is no such verb{did_you_mean(name, VERBS)} (verbs: {', '.join(VERBS)})")
    with _ends_at_once():
        return importlib.import_module(f"d3pm.cli.{name.replace('-', '_')}")


@contextmanager
def _ends_at_once() -> Iterator[None]:
    """Have Ctrl-C end the process without a word, as long as only imports run: no library's is made to be stopped."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)

"""The command line, one verb a file. A verb is imported when it is called, so that help is quick."""

import importlib
import os
import sys
from collections.abc import Sequence

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

    A mistake of the user's, or a file that cannot be read or written, is one line on stderr and exit code 2.
    Anything else keeps its traceback.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0 if argv else 2
    try:
        return _verb(argv[0]).main(argv[1:])
    except D3PMError as error:
        print(f"d3pm {argv[0]}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"d3pm {argv[0]}: error: {' '.join(what.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"d3pm {argv[0]}: interrupted", file=sys.stderr)
        return 130


def _verb(name: str):
    if name not in VERBS:
        from d3pm.cli.parser import did_you_mean

        raise ConfigError(f"there is no such verb{did_you_mean(name, VERBS)} (verbs: {', '.join(VERBS)})")
    return importlib.import_module(f"d3pm.cli.{name.replace('-', '_')}")

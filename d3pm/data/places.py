"""Where data is looked for by its name, whatever kind it is: a local data folder, then the hub."""

import os
from pathlib import Path
from typing import Any

from d3pm.errors import DataError


def data_folder() -> Path | None:
    """The folder ``$D3PM_DATA``, None if it is not set.

    Raises:
        DataError: If it is set to something else.
    """
    if not (root := os.environ.get("D3PM_DATA")):
        return None
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"D3PM_DATA: {root!r} is not a folder: set it to the one that holds your data")
    return folder


def from_hub(source: str, name: str, subset: str | None, built_in: str, **options: Any) -> Any:
    """The dataset called ``name`` on the hub, by split; the user called it ``source``, which is not ``built_in``.

    Options are those of ``datasets.load_dataset``.

    Raises:
        DataError: If it cannot be had; the message says where else it was looked for.
    """
    from datasets import load_dataset

    try:
        return load_dataset(name, subset, **options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"source: {source!r} is neither {built_in}, nor in $D3PM_DATA "
            f"({os.environ.get('D3PM_DATA') or 'not set'}), "
            f"nor to be had from the hub ({reason}): set D3PM_DATA to a folder that holds {source}, or give a path "
            f"(./{source} if it is a file or folder here)"
        ) from error

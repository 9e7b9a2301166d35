"""Codecs as JSON: a file in a model's folder, or in a repository on the hub."""

import json
from pathlib import Path
from typing import Any

from d3pm.errors import DataError


def write_record(record: dict[str, Any], folder: str | Path, file: str, indent: int | None = None) -> None:
    """Write ``record`` as ``folder/file``; the folder is made."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, indent=indent)
    (Path(folder) / file).write_text(text + "\n", encoding="utf-8")


def record_file(name: str | Path, file: str) -> Path:
    """Where ``file`` of a folder, or of a repository on the hub, lies on this machine.

    Raises:
        DataError: If ``name`` is no folder and the hub does not have it, or is out of reach.
    """
    path = Path(name).expanduser() / file
    if path.parent.is_dir():
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(name), file))
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"codec: {str(name)!r} is no folder and cannot be had from the hub ({reason}): "
            f"give a folder that holds {file}, or a hub name"
        ) from error

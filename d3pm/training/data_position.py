"""Where a stream of data stands: kept with each checkpoint, so that a resumed run goes on with the next row.

Every process writes the lanes it reads to a file of its own. Lanes do not belong to processes, so all files together
are read on resuming, by however many processes there are then.
"""

import json
from pathlib import Path

from d3pm.data.feed import Positions, StepFeed
from d3pm.errors import CheckpointError

_FILES = "data_position_*.json"


def save_position(feed: StepFeed, folder: Path) -> None:
    """Write where this process's lanes stand after the last whole step."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"shards": len(feed.stream.text.shards), "lanes": feed.positions}
    (folder / _FILES.replace("*", str(feed.portion.process))).write_text(json.dumps(record))


def load_position(feed: StepFeed, folder: Path) -> None:
    """Have this process's lanes go on where some processes left them.

    Raises:
        CheckpointError: If the checkpoint does not say where they stood, or the text has other shards by now.
    """
    shards = len(feed.stream.text.shards)
    positions: Positions = {}
    for file in sorted(folder.glob(_FILES)):
        then, mine = _read(file)
        positions |= mine
        if then != shards:
            raise CheckpointError(
                f"{folder}: the text had {then} shards and now has {shards}: bring the old ones back, or start a new "
                "run in another --output"
            )
    if missing := sorted(feed.wanted.keys() - positions.keys()):
        raise CheckpointError(
            f"{folder} does not say where lane {missing[0]} of the data stood: resume from another checkpoint, or "
            "start a new run in another --output"
        )
    feed.positions = {lane: positions[lane] for lane in feed.wanted}


def _read(file: Path) -> tuple[int, Positions]:
    try:
        record = json.loads(file.read_text())
        return record["shards"], {int(lane): list(state) for lane, state in record["lanes"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file} is no position of data: resume from another checkpoint") from error

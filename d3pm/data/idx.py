"""The idx format, in which MNIST and its descendants are published."""

import gzip
import struct
from math import prod
from pathlib import Path

import numpy as np

from d3pm.data.files import reading

_BYTES = 0x08


def read_idx(path: Path) -> np.ndarray:
    """An idx file of bytes, plain or gzipped, as uint8 of the shape in its header.

    The header is two zero bytes, the type (8: bytes), the number of axes, then each axis as a big-endian int32.

    Raises:
        DataError: If the file is not there, is cut short, or is no idx file of bytes.
    """
    with reading(path):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        if len(content) < 4 or content[:3] != bytes((0, 0, _BYTES)):
            raise ValueError(f"it begins with {content[:4].hex(' ')}, so it is no idx file of bytes")
        axes = content[3]
        start = 4 + 4 * axes
        if len(content) < start:
            raise ValueError(f"its header of {axes} axes is cut short")
        shape = struct.unpack(f">{axes}I", content[4:start])
        if len(content) - start != prod(shape):
            raise ValueError(f"it holds {len(content) - start:,} bytes where its header says {shape}")
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()  # bytes are read-only

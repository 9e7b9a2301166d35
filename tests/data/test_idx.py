"""The idx format: what is written is read, and each way to be broken is told apart in one line."""

import gzip
import struct

import numpy as np
import pytest

from d3pm.data.idx import read_idx
from d3pm.errors import DataError

ARRAY = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return bytes((0, 0, kind, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("array", [ARRAY, ARRAY[0, 0], ARRAY[:0]])
def test_plain_and_gzipped(tmp_path, array):
    (tmp_path / "a").write_bytes(idx(array))
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(array)))
    for name in ("a", "a.gz"):
        found = read_idx(tmp_path / name)
        assert found.dtype == np.uint8
        assert np.array_equal(found, array)
        assert found.flags.writeable


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no idx file"),
        (idx(ARRAY, kind=13), "00 00 0d 03, so it is no idx file of bytes"),
        (idx(ARRAY)[:9], "its header of 3 axes is cut short"),
        (idx(ARRAY)[:-1], r"holds 23 bytes where its header says (2, 3, 4)"),
        (idx(ARRAY) + b"x", "holds 25 bytes"),
    ],
)
def test_broken_content(tmp_path, content, says):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_idx(tmp_path / "a")
    message = str(caught.value)
    assert says in message
    assert message.startswith(f"source: {tmp_path / 'a'} cannot be read")
    assert "\n" not in message


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_broken_gzip(tmp_path, keep):
    whole = gzip.compress(idx(ARRAY))
    (tmp_path / "a.gz").write_bytes(whole[: int(keep * len(whole))] if keep else b"not gzip")
    with pytest.raises(DataError, match=r"cannot be read.*replace it with a whole file"):
        read_idx(tmp_path / "a.gz")


def test_a_flipped_bit_is_found(tmp_path):
    whole = bytearray(gzip.compress(idx(ARRAY)))
    whole[-6] ^= 1  # in the checksum
    (tmp_path / "a.gz").write_bytes(whole)
    with pytest.raises(DataError, match="CRC"):
        read_idx(tmp_path / "a.gz")

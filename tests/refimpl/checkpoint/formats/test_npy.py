"""Arrays in .npy files: what NumPy writes row by row is read; other forms and files that lie are refused."""

import io

import numpy as np
import pytest
from tfm.refimpl.checkpoint.formats.npy import read_array
from tfm.refimpl.errors import CheckpointError

ARRAYS = {
    "tokens": np.arange(24).reshape(2, 12),
    "one": np.array(0.5),
    "none": np.zeros((0, 3), np.float32),
    "bytes": np.arange(5, dtype=np.uint8),
    "halves": np.arange(6, dtype=np.float16).reshape(1, 2, 3),
}


def npy(values: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, version)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ARRAYS)
def test_what_numpy_writes_is_read(name):
    found, expected = read_array(npy(ARRAYS[name]), "x.npy"), ARRAYS[name]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected)


PLAIN = npy(np.zeros(4))
HOSTILE = {
    "no npy": (b"PK", "of numbers"),
    "objects": (npy(np.array([{}], object)), "of numbers"),
    "complex": (npy(np.ones(2, complex)), "of numbers"),
    "version 2": (npy(np.ones(2), (2, 0)), "of numbers"),
    "Python": (PLAIN.replace(b"False", b"not 1"), "of numbers"),
    "columns": (npy(np.asfortranarray(np.ones((2, 3)))), "row-major order"),
    "big-endian": (npy(np.ones(2, ">f8")), "of numbers"),
    "no type": (PLAIN.replace(b"<f8", b"<f1"), "of numbers"),
    "claims more": (PLAIN.replace(b"(4,)", b"(5,)"), r"can't have the shape \(5,\): the file has 32 bytes"),
    "claims 2^60": (PLAIN.replace(b"(4,)", b"(1152921504606846976,)"), "can't have the shape"),
    "claims 10^40 of nothing": (npy(np.zeros(0)).replace(b"(0,)", b"(0,1" + b"0" * 40 + b")"), "can't have"),
    "no size": (PLAIN.replace(b"(4,)", b"(4 4)"), "can't have the shape"),
    "cut short": (PLAIN[:-3], "the file has 29 bytes"),
    "header cut short": (PLAIN[:40], "of numbers"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case):
    data, message = HOSTILE[case]
    with pytest.raises(CheckpointError, match=message) as caught:
        read_array(data, "x.npy")
    assert "\n" not in str(caught.value)

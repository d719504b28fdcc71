"""Arrays in an .npz: what tfm writes is read; NumPy's other forms and files that lie are refused."""

import io
import struct
import zipfile

import numpy as np
import pytest
from tfm.export.bundle_writer import write_arrays
from tfm.refimpl.errors import CheckpointError
from tfm.refimpl.formats.npz import read_arrays

ARRAYS = {
    "tokens": np.arange(24).reshape(2, 12),
    "one": np.array(0.5),
    "none": np.zeros((0, 3), np.float32),
    "bytes": np.arange(5, dtype=np.uint8),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
}


def archive(method: int = zipfile.ZIP_STORED, **entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, data in entries.items():
            file.writestr(f"{name}.npy", data)
    return buffer.getvalue()


def array(values: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, version)
    return buffer.getvalue()


def test_what_is_written_is_read(tmp_path):
    write_arrays(tmp_path / "x.npz", ARRAYS)
    found = read_arrays((tmp_path / "x.npz").read_bytes(), "x.npz")
    assert found.keys() == ARRAYS.keys()
    for name, expected in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
        assert np.array_equal(found[name], expected)
    np.savez(tmp_path / "numpy.npz", **ARRAYS)
    assert read_arrays((tmp_path / "numpy.npz").read_bytes(), "x").keys() == ARRAYS.keys()


PLAIN = array(np.zeros(4))
HOSTILE = {
    "no zip": (b"PK", "not a zip file"),
    "objects": (archive(x=array(np.array([{}], object))), "an array of numbers"),
    "complex": (archive(x=array(np.ones(2, complex))), "an array of numbers"),
    "version 2": (archive(x=array(np.ones(2), (2, 0))), "an array of numbers"),
    "Python": (archive(x=PLAIN.replace(b"False", b"not 1")), "an array of numbers"),
    "compressed": (archive(zipfile.ZIP_DEFLATED, x=PLAIN), "stored as it is"),
    "claims more": (archive(x=PLAIN.replace(b"(4,)", b"(5,)")), r"claims shape \[5\] of float64, and has 32"),
    "claims 2^60": (archive(x=PLAIN.replace(b"(4,)", b"(1152921504606846976,)")), "claims shape"),
    "cut short": (archive(x=PLAIN)[:-30], "not a zip file|whole"),
    "flipped": (archive(x=PLAIN).replace(struct.pack("<d", 0), struct.pack("<d", 1), 1), "Bad CRC"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case):
    data, message = HOSTILE[case]
    with pytest.raises(CheckpointError, match=message) as caught:
        read_arrays(data, "x.npz")
    assert "\n" not in str(caught.value)


def test_a_name_that_stands_twice():
    data = archive(x=PLAIN, y=PLAIN).replace(b"y.npy", b"x.npy")
    with pytest.raises(CheckpointError, match="each array may stand once"):
        read_arrays(data, "x.npz")

"""pytorch_model.bin written without torch: a pickle by hand, in a zip or in the older form."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

CLASSES = {"<f4": "Float", "<f2": "Half", "<u2": "BFloat16", "<i8": "Long", "|u1": "Byte"}
MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."  # and the protocol
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def row(*values: int) -> bytes:
    return b"(" + b"".join(map(whole, values)) + b"t"


def storage(key: str, count: int, name: str = "Float", *, older: bool = False) -> bytes:
    """A persistent id."""
    view = b"N" if older else b""
    return (
        b"("
        + text("storage")
        + f"ctorch\n{name}Storage\n".encode()
        + text(key)
        + text("cpu")
        + whole(count)
        + view
        + b"tQ"
    )


def tensor(stored: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    return (
        REBUILD + b"(" + stored + whole(offset) + row(*shape) + row(*strides) + b"\x89" + ORDERED_DICT + b"tR"
    )


def state_dict(values: Mapping[str, bytes]) -> bytes:
    """The pickle of a dict of values that are pickled already."""
    items = b"".join(text(name) + value for name, value in values.items())
    return b"\x80\x02" + ORDERED_DICT + b"(" + items + b"u."


def archive(pickle: bytes, storages: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """The form since torch 1.6."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr("model/data.pkl", pickle)
        file.writestr("model/byteorder", "little")
        for key, data in storages.items():
            file.writestr(f"model/data/{key}", data)
        file.writestr("model/version", "3\n")
    return buffer.getvalue()


def older(pickle: bytes, storages: Mapping[str, bytes], size: int = 4) -> bytes:
    """The form before it, of storages whose numbers have `size` bytes."""
    system = b"\x80\x02}" + text("little_endian") + b"\x88s."
    keys = b"\x80\x02](" + b"".join(map(text, storages)) + b"e."
    numbers = b"".join(struct.pack("<Q", len(data) // size) + data for data in storages.values())
    return MAGIC + system + pickle + keys + numbers


def torch_file(arrays: Mapping[str, np.ndarray], *, zipped: bool = True) -> bytes:
    """The file of arrays of one type, each in a storage of its own."""
    values, storages = {}, {}
    for key, (name, array) in enumerate(arrays.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        stored = storage(str(key), array.size, CLASSES[array.dtype.str], older=not zipped)
        values[name], storages[str(key)] = tensor(stored, 0, array.shape, strides), array.tobytes()
    pickle = state_dict(values)
    size = next(iter(arrays.values())).itemsize
    return archive(pickle, storages) if zipped else older(pickle, storages, size)

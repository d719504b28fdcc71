"""GGUF v2 and v3: metadata and tensors in one little-endian file.

    "GGUF"  u32 version  u64 tensors  u64 pairs
    pairs:   string key, u32 type, value            string = u64 length + bytes
    tensors: string name, u32 dimensions (fastest first), u64 each, u32 type, u64 offset
    padding to general.alignment (32), then the data, each tensor padded to it

Every count, length and offset MUST fit what is left of the file before anything is allocated for
it, since files of a few bytes have made other readers allocate gigabytes. Keys and names stand
once, arrays aren't nested, and tensors follow each other without hole or overlap.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..ops.quant import Blocks
from .dtypes import KINDS, native, slab, widen
from .mapped_file import map_file

SCALARS = ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?", "str", "array", "<u8", "<i8", "<f8")
TENSORS = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16",
}  # fmt: skip
MAX_COUNT, MAX_STRING, MAX_ITEMS, MAX_NAME, MAX_ALIGNMENT = 100_000, 10_000_000, 4_000_000, 63, 2**20


class _Cursor:
    """Reads forward through the file and never past its end."""

    def __init__(self, data: np.ndarray, path: Path) -> None:
        self.data, self.path, self.at = data, path, 0

    def fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {message}")

    def take(self, size: int, what: str) -> bytes:
        left = len(self.data) - self.at
        if size > left:
            raise self.fail(
                f"{what} needs {size} bytes at byte {self.at}, {left} are left: truncated or damaged"
            )
        self.at += size
        return self.data[self.at - size : self.at].tobytes()

    def number(self, form: str, what: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def text(self, what: str, limit: int = MAX_STRING) -> str:
        length = self.number("<Q", what)
        if length > limit:
            raise self.fail(f"{what} may have {limit} bytes, claims {length}")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} must be UTF-8") from None

    def value(self, key: str) -> Any:
        kind = self.kind(key)
        if kind != "array":
            return self.scalars(kind, 1, key)[0]
        kind, count = self.kind(key), self.number("<Q", key)
        if kind == "array":
            raise self.fail(f"{key!r:.80}: arrays of arrays aren't read")
        if count > MAX_ITEMS:
            raise self.fail(f"{key!r:.80} may have {MAX_ITEMS} items, claims {count}")
        return self.scalars(kind, count, key)

    def kind(self, key: str) -> str:
        number = self.number("<I", key)
        if number >= len(SCALARS):
            raise self.fail(f"{key!r:.80}: value types are 0 to {len(SCALARS) - 1}, got {number}")
        return SCALARS[number]

    def scalars(self, kind: str, count: int, key: str) -> list[Any]:
        if kind == "str":
            if count * 8 > len(self.data) - self.at:
                raise self.fail(
                    f"{key!r:.80} claims {count} strings, the file is too short: truncated or damaged"
                )
            return [self.text(key) for _ in range(count)]
        dtype = np.dtype("u1" if kind == "?" else kind)
        values = np.frombuffer(self.take(count * dtype.itemsize, key), dtype)
        if kind == "?" and (values > 1).any():
            raise self.fail(f"{key!r:.80}: a bool must be 0 or 1")
        return (values.astype(bool) if kind == "?" else values).tolist()


class GGUF:
    """Metadata and tensors of one file; a tensor is read when it is asked for, shapes row-major."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data = map_file(path)
        cursor = _Cursor(data, path)
        magic = cursor.take(4, "the magic")
        if magic != b"GGUF":
            raise cursor.fail(f"must begin with GGUF, begins with {magic!r}")
        version = cursor.number("<I", "the version")
        if version not in (2, 3):
            raise cursor.fail(f"GGUF versions 2 and 3 (little-endian) are read, got {version:#x}")
        counts = [cursor.number("<Q", "a count") for _ in range(2)]
        if max(counts) > MAX_COUNT:
            raise cursor.fail(f"may have {MAX_COUNT} tensors and pairs, claims {counts}")
        self.metadata: dict[str, Any] = {}
        for _ in range(counts[1]):
            key = cursor.text("a key")
            if not key or key in self.metadata:
                raise cursor.fail(f"each key may stand once and needs a name, got {key!r:.80} again")
            self.metadata[key] = cursor.value(key)
        self._alignment = self._check_alignment()
        found: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        at = 0
        for _ in range(counts[0]):
            name = cursor.text("a tensor's name", MAX_NAME)
            if name in found:
                raise cursor.fail(f"tensor {name!r} stands twice")
            found[name] = self._tensor(cursor, name, at)
            at = self._pad(found[name][3])
        start = self._pad(cursor.at)
        self._data, self._tensors = data[min(start, len(data)) :], found
        end = max((t[3] for t in found.values()), default=0)
        if end > len(data) - start and end:
            raise cursor.fail(
                f"the tensors need {end} bytes from byte {start} on, the file has {len(data)}: truncated"
            )
        if len(data) > start + self._pad(end):
            raise cursor.fail(f"{len(data) - start - self._pad(end)} bytes follow the last tensor: damaged")

    def _pad(self, size: int) -> int:
        return -(-size // self._alignment) * self._alignment

    def _check_alignment(self) -> int:
        value = self.metadata.get("general.alignment", 32)
        if type(value) is not int or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
            raise CheckpointError(
                f"{self.path}: general.alignment must be a power of two up to 2^20, got {value!r:.40}"
            )
        return value

    def _tensor(self, cursor: _Cursor, name: str, at: int) -> tuple[str, tuple[int, ...], int, int]:
        """(kind, shape, begin, end) of the next tensor, which must begin at `at`."""
        dimensions = cursor.number("<I", name)
        if dimensions > 4:
            raise cursor.fail(f"tensor {name!r} may have 4 dimensions, claims {dimensions}")
        shape = tuple(cursor.number("<Q", name) for _ in range(dimensions))[::-1]
        number = cursor.number("<I", name)
        if number not in TENSORS:
            raise cursor.fail(f"tensor {name!r} has type {number}; read are {', '.join(TENSORS.values())}")
        kind = KINDS[TENSORS[number]]
        size = math.prod(shape)
        if size > 8 * len(cursor.data) or max(shape, default=1) > 2**48:
            raise cursor.fail(f"tensor {name!r} claims shape {list(shape)}, more than the file can hold")
        if (shape[-1] if shape else 1) % kind.size:
            raise cursor.fail(
                f"tensor {name!r}: rows of {TENSORS[number]} come in blocks of {kind.size}, got {list(shape)}"
            )
        offset = cursor.number("<Q", name)
        if offset != at:
            raise cursor.fail(
                f"tensor {name!r} must begin at byte {at} of the data, not {offset}: a hole or an overlap"
            )
        return TENSORS[number], shape, at, at + size // kind.size * kind.record.itemsize

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def kind(self, name: str) -> str:
        """How the tensor is stored: F32, Q4_K, …"""
        return self._tensors[name][0]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name][1]

    def _raw(self, name: str, part: int | None) -> tuple[np.ndarray, str, tuple[int, ...]]:
        kind, whole, begin, end = self._tensors[name]
        data, shape = slab(self._data[begin:end], whole, part)
        return data, kind, shape

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        """The tensor as float32, or one part along its first axis."""
        return widen(*self._raw(name, part))

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        """The matrix in the file's own blocks, or None."""
        return native(*self._raw(name, part))

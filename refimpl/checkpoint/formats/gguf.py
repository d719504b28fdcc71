"""GGUF v2 and v3: metadata and tensors in one little-endian file.

    "GGUF"  u32 version  u64 number of tensors  u64 number of pairs
    pairs:    string key, u32 type, value           A string is: u64 length, bytes
    tensors:  string name, u32 number of axes, u64 size of each axis (fastest first), u32 type, u64 offset
    padding to general.alignment (32), then the data, with each tensor padded to the alignment

Every count, length and offset MUST fit the rest of the file before memory is allocated for it, since files of
a few bytes have made other readers allocate gigabytes. Each key and name occurs once, arrays aren't nested,
and tensors follow each other without gaps or overlap. The memory that all metadata may take is limited by the
file's size.
"""

from __future__ import annotations

import math
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError
from ...ops.quant import Blocks
from .cursor import Cursor
from .dtypes import KINDS, native, slab, widen
from .file_bytes import FileBytes

SCALARS = ("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "?", "str", "array", "<u8", "<i8", "<f8")
TENSORS = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
    21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
    41: "Q1_0", 42: "Q2_0",
}  # fmt: skip
# Types of forks, which can't be read.
REFUSED = {
    36: "I2_S, because the order of its codes depends on the processor that wrote the file: convert the "
    "model to TQ1_0 or TQ2_0",
}
MAX_COUNT, MAX_STRING, MAX_NAME, MAX_ALIGNMENT = 20_000, 10_000_000, 63, 2**20
# Of all arrays together. The largest vocabularies have 260,000 tokens and twice as many merges.
MAX_ITEMS, MAX_STRINGS = 4_000_000, 1_000_000
PAIR, TENSOR = 200, 800  # bytes that a key with its value, or a tensor's entry, takes beside its name
# What a string takes beyond `sys.getsizeof`, by whether it is ASCII: 9 bytes for its place in a list that
# grew, and what CPython 3.11 needs more than this version, so that all have the same bound.
BEYOND = {True: 9 + 49 - sys.getsizeof(""), False: 9 + 76 - sys.getsizeof("Ġ")}


class _Cursor(Cursor):
    """A reader of GGUF's strings, values and arrays, which limits how many items all arrays of the file have
    together.
    """

    def __init__(self, file: FileBytes) -> None:
        super().__init__(file, "the metadata")
        self._items = {"numbers": MAX_ITEMS, "strings": MAX_STRINGS}

    def text(self, what: str, limit: int = MAX_STRING) -> str:
        length = self.number("<Q", what)
        if length > limit:
            raise self.fail(f"{what} may have at most {limit} bytes, but it claims {length}")
        try:
            text = self.take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} must be UTF-8") from None
        self.hold(sys.getsizeof(text) + BEYOND[text.isascii()], what)
        return text

    def value(self, name: str) -> Any:
        """Read the value of the key `name`: a number, a bool or a string. An array becomes a list of strings
        or a NumPy array.
        """
        key = f"{name!r:.80}"
        self.hold(PAIR, key)
        kind = self.kind(key)
        if kind == "str":
            return self.text(key)
        if kind != "array":
            return self.numbers(kind, 1, key)[0].item()
        kind, count = self.kind(key), self.number("<Q", key)
        if kind == "array":
            raise self.fail(f"{key}: tfm doesn't read arrays of arrays")
        what = "strings" if kind == "str" else "numbers"
        if count > self._items[what]:
            raise self.fail(f"{key} may have at most {self._items[what]} items, but it claims {count}")
        self._items[what] -= count
        return self.strings(count, key) if kind == "str" else self.numbers(kind, count, key)

    def kind(self, key: str) -> str:
        number = self.number("<I", key)
        if number >= len(SCALARS):
            raise self.fail(f"{key}: value types must be 0 to {len(SCALARS) - 1}, got {number}")
        return SCALARS[number]

    def strings(self, count: int, key: str) -> list[str]:
        if count * 8 > self.end - self.at:
            raise self.fail(
                f"{key} claims {count} strings, but the file is too short: the file is truncated or damaged"
            )
        found: list[str] = []
        while len(found) < count:
            found.append(self.text(key))  # this reads on where the window ends
            found += self._from_window(count - len(found), key)
        return found

    def _from_window(self, most: int, key: str) -> list[str]:
        """Read the next strings that are completely in the window, the bytes that have been read already.
        Read at most `most` strings.

        Reading from the window is fast, which matters because a vocabulary has hundreds of thousands of
        strings.
        """
        found: list[str] = []
        window, at = self.window, self.at - self.window_begin
        end, unpack, memory = len(window), struct.Struct("<Q").unpack_from, 0
        try:
            while len(found) < most and at + 8 <= end:
                stop = at + 8 + unpack(window, at)[0]
                if stop > end:
                    break
                text = window[at + 8 : stop].decode("utf-8")
                memory += sys.getsizeof(text) + BEYOND[text.isascii()]
                found.append(text)
                at = stop
        except UnicodeDecodeError:
            raise self.fail(f"{key} must be UTF-8") from None
        self.hold(memory, key)
        self.at = self.window_begin + at
        return found

    def numbers(self, kind: str, count: int, key: str) -> np.ndarray:
        dtype = np.dtype("u1" if kind == "?" else kind)
        size = count * dtype.itemsize
        values = np.frombuffer(self.take(size, key), dtype)
        self.hold(size, key)
        if kind == "?" and (values > 1).any():
            raise self.fail(f"{key}: a bool must be 0 or 1")
        return values.astype(bool) if kind == "?" else values


class GGUF:
    """The metadata and tensors of one GGUF file. A tensor is read only when it is needed. Shapes are
    row-major.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file = FileBytes(path)
        cursor = _Cursor(file)
        magic = cursor.take(4, "the magic")
        if magic != b"GGUF":
            raise cursor.fail(f"must begin with GGUF, but it begins with {magic!r}")
        version = cursor.number("<I", "the version")
        if version not in (2, 3):
            raise cursor.fail(f"the version must be 2 or 3 (little-endian), got {version:#x}")
        counts = [cursor.number("<Q", "a count") for _ in range(2)]
        if max(counts) > MAX_COUNT:
            raise cursor.fail(f"may have at most {MAX_COUNT} tensors and pairs, but it claims {counts}")
        self.metadata: dict[str, Any] = {}
        for _ in range(counts[1]):
            key = cursor.text("a key")
            if not key or key in self.metadata:
                raise cursor.fail(
                    f"each key must have a name and may occur only once, but {key!r:.80} is empty or "
                    "occurs twice"
                )
            self.metadata[key] = cursor.value(key)
        self._alignment = self._check_alignment()
        found: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
        at = 0
        for _ in range(counts[0]):
            name = cursor.text("a tensor's name", MAX_NAME)
            cursor.hold(TENSOR, repr(name))
            if name in found:
                raise cursor.fail(f"tensor {name!r} occurs twice")
            found[name] = self._tensor(cursor, name, at)
            at = self._pad(found[name][3])
        start = self._pad(cursor.at)
        self._file, self._start, self._tensors = file, start, found
        end = max((t[3] for t in found.values()), default=0)
        if end > len(file) - start and end:
            raise cursor.fail(
                f"the tensors need {end} bytes from byte {start} on, but the file has {len(file)}: the "
                "file is truncated"
            )
        if len(file) > start + self._pad(end):
            raise cursor.fail(
                f"{len(file) - start - self._pad(end)} bytes follow the last tensor: the file is damaged"
            )

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
        """Read the description of the next tensor, which must begin at byte `at` of the data. Return its
        kind, its shape, and where it begins and ends.
        """
        what = f"tensor {name!r}"
        dimensions = cursor.number("<I", what)
        if dimensions > 4:
            raise cursor.fail(f"{what} may have at most 4 dimensions, but it claims {dimensions}")
        shape = tuple(cursor.number("<Q", what) for _ in range(dimensions))[::-1]
        if len(shape) == 4 and shape[0] == 1:
            shape = shape[1:]  # llama.cpp's tools drop such an axis, and its converter of Kimi Linear doesn't
        number = cursor.number("<I", what)
        if number in REFUSED:
            raise cursor.fail(f"{what} can't have the type {number}, {REFUSED[number]}")
        if number not in TENSORS:
            raise cursor.fail(
                f"{what} must have one of the types {', '.join(TENSORS.values())}, got number {number}"
            )
        kind = KINDS[TENSORS[number]]
        size = math.prod(shape)
        if size > 8 * cursor.end or max(shape, default=1) > 2**48:
            raise cursor.fail(f"{what} claims shape {list(shape)}, which is more than the file can contain")
        if (shape[-1] if shape else 1) % kind.size:
            raise cursor.fail(
                f"{what}: rows of {TENSORS[number]} must be whole blocks of {kind.size} numbers, got shape "
                f"{list(shape)}"
            )
        offset = cursor.number("<Q", what)
        if offset != at:
            raise cursor.fail(
                f"{what} must begin at byte {at} of the data, but it begins at byte {offset}: the file has a "
                "hole or an overlap"
            )
        return TENSORS[number], shape, at, at + size // kind.size * kind.record.itemsize

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def kind(self, name: str) -> str:
        """Return the type in which the tensor is stored: F32, Q4_K, …"""
        return self._tensors[name][0]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name][1]

    def _raw(self, name: str, part: int | None) -> tuple[np.ndarray, str, tuple[int, ...]]:
        kind, whole, begin, end = self._tensors[name]
        begin, end, shape = slab(begin, end, whole, part)
        return self._file.read(self._start + begin, self._start + end), kind, shape

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        """Return the tensor as float32. If `part` is given, return only this index of the first axis."""
        return widen(*self._raw(name, part))

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        """Return a matrix in the blocks that the file stores, or None if the file stores it without blocks.
        If `part` is given, return only this index of the tensor's first axis.
        """
        return native(*self._raw(name, part))

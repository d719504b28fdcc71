"""Read and write safetensors files: a length, a JSON header, then the tensors' bytes, end to end.

    u64  n ≤ 100,000,000 and ≤ what is left of the file
    n    bytes of JSON, starting with "{": name -> {"dtype", "shape", "data_offsets": [begin, end]},
         and "__metadata__" -> {str: str}
    …    the tensors, little-endian, row-major

The offsets MUST cover the rest of the file without gaps or overlap, and each name MUST occur only once. (The
format says so; the library accepts duplicates and uses the last one.) All of this is checked against the
file's real size before anything is read or allocated.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError
from ...ops.quant import Blocks
from .dtypes import KINDS, READABLE_INTEGERS, slab, widen
from .file_bytes import FileBytes
from .strict_json import parse

HEADER_LIMIT = 100_000_000
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0")
READABLE = (*FLOATS, *READABLE_INTEGERS)
SKIPPABLE = ("I8", "I16", "U16", "I32", "U32", "U64")
# Codes of quantized weights.
CODES = {"U8": "u1", "I8": "i1", "I32": "<i4", "I64": "<i8"}


class SafeTensors:
    """The tensors of one safetensors file, by name. A tensor is read only when it is needed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        file = FileBytes(path)
        if len(file) < 8:
            raise CheckpointError(f"{path}: a safetensors file has at least 8 bytes, but it has {len(file)}")
        length = int.from_bytes(file.read(0, 8).tobytes(), "little")
        following = len(file) - 8
        if length > min(HEADER_LIMIT, following):
            raise CheckpointError(
                f"{path}: the header claims {length} bytes, but {following} follow: the file is truncated, "
                "or isn't a safetensors file"
            )
        header = file.read(8, 8 + length).tobytes()
        if not header.startswith(b"{"):
            raise CheckpointError(f"{path}: the header must start with '{{', got {header[:8]!r}")
        self._file, self._start, self._size = file, 8 + length, following - length
        entries = parse(header, str(path))
        _metadata(entries.pop("__metadata__", {}), path)
        self._entries = {name: self._entry(name, entry) for name, entry in entries.items()}
        at = 0
        for name, (_, _, begin, end) in sorted(self._entries.items(), key=lambda item: item[1][2:]):
            if begin != at:
                raise CheckpointError(
                    f"{path}: {name!r:.80} must begin at byte {at}, but it begins at {begin}: the file has a "
                    "hole or an overlap"
                )
            at = end
        if at != self._size:
            raise CheckpointError(
                f"{path}: the tensors need {at} bytes, but the file has {self._size} bytes: the file was "
                "truncated or padded"
            )

    def _entry(self, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
        at = f"{self.path}: {name!r:.80}"
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise CheckpointError(f"{at} must have dtype, shape and data_offsets, got {entry!r:.80}")
        kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if kind not in READABLE + SKIPPABLE:
            raise CheckpointError(f"{at}: dtype must be one of {', '.join(READABLE)}, got {kind!r:.40}")
        if not _whole(shape) or len(shape) > 8:
            raise CheckpointError(
                f"{at}: shape must have at most 8 sizes, each a whole number below 2^48, got {shape!r:.80}"
            )
        if not _whole(offsets) or len(offsets) != 2:
            raise CheckpointError(f"{at}: data_offsets must be two whole numbers, got {offsets!r:.80}")
        begin, end = offsets
        if not begin <= end <= self._size:
            raise CheckpointError(
                f"{at}: data_offsets {offsets} must be within the {self._size} bytes of data: was the file "
                "truncated?"
            )
        need = math.prod(shape) * KINDS[kind].record.itemsize
        if need != end - begin:
            raise CheckpointError(
                f"{at}: {kind} {shape} needs {need} bytes, but data_offsets give {end - begin} bytes"
            )
        return kind, tuple(shape), begin, end

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._entries)

    def kind(self, name: str) -> str:
        """Return the type in which the tensor is stored: F32, BF16, …"""
        return self._entries[name][0]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._entries[name][1]

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        """Return the tensor as float32, or as int64 if the file stores I64. If `part` is given, return only
        this index of the first axis.
        """
        require_readable(self.kind(name), f"{self.path}: {name!r:.80}")
        data, shape = self._bytes(name, part)
        return numbers(data, self.kind(name), shape)

    def raw(self, name: str, part: int | None = None) -> np.ndarray:
        """Return a tensor of whole numbers as it is stored. If `part` is given, return only this index of the
        first axis.
        """
        data, shape = self._bytes(name, part)
        return data.view(CODES[self.kind(name)]).reshape(shape)

    def _bytes(self, name: str, part: int | None) -> tuple[np.ndarray, tuple[int, ...]]:
        _, full_shape, begin, end = self._entries[name]
        begin, end, shape = slab(begin, end, full_shape, part)
        return self._file.read(self._start + begin, self._start + end), shape

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        """Return None, because a safetensors file stores no blocks."""
        return None


def require_readable(kind: str, where: str) -> None:
    """Raise CheckpointError unless `kind` is a float type, or a type of whole numbers in which models store
    masks and positions. The error begins with `where`.
    """
    if kind not in READABLE:
        raise CheckpointError(f"{where} must be one of {', '.join(READABLE)}, got {kind}")


def numbers(data: np.ndarray, kind: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the numbers that these bytes encode, as int64 for I64, else as float32. `kind` must be a type
    that `require_readable` accepts.
    """
    if kind in READABLE_INTEGERS:
        whole = data.view(READABLE_INTEGERS[kind]).reshape(shape)
        return whole.astype(np.int64 if kind == "I64" else np.float32)
    return widen(data, kind, shape)


def _whole(value: Any) -> bool:
    # Sizes beyond 2^48 would only make the product below slow.
    return isinstance(value, list) and all(type(v) is int and 0 <= v < 2**48 for v in value)


def _metadata(value: Any, path: Path) -> None:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise CheckpointError(f"{path}: __metadata__ must map strings to strings, got {value!r:.80}")


def save(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write float32 and float16 arrays to a safetensors file. The arrays are sorted by name, so that the same
    tensors give the same bytes.
    """
    names = {np.dtype("<f4"): "F32", np.dtype("<f2"): "F16"}
    header: dict[str, Any] = {}
    at = 0
    for name in sorted(tensors):
        array = tensors[name]
        if array.dtype not in names:
            raise CheckpointError(f"{path}: {name} must be float32 or float16, got {array.dtype}")
        offsets = [at, at + array.nbytes]
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        at += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in sorted(tensors):
            file.write(np.ascontiguousarray(tensors[name]).data)

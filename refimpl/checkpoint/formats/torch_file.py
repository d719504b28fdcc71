"""Read pytorch_model.bin, a state_dict that torch.save wrote, without torch and without running code from the
file.

    since torch 1.6    a zip with uncompressed entries:   NAME/data.pkl   a pickle: names -> tensors
                                                          NAME/data/KEY   the numbers of a storage
                                                          NAME/byteorder  "little"
    before             pickles one after the other: a magic number, the protocol 1001, sizes of C's types, the
                       names -> tensors, the keys of the storages; then for each storage u64 count and the
                       numbers

A tensor is a storage, an offset, a shape and strides. Offset and strides count elements. Several tensors may
share a storage, and each tensor MUST lie within its storage. The pickle may contain only the names that
`_Tensors.calls` lists (`pickle_values`). A file that needs other names isn't a state_dict of plain
tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import CheckpointError
from ...ops.quant import Blocks
from .cursor import Cursor
from .dtypes import KINDS
from .file_bytes import FileBytes
from .pickle_values import Name, PickleReader
from .safetensors import CODES, numbers, require_readable
from .zip_directory import stored_entries

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    "torch.FloatStorage": "F32", "torch.HalfStorage": "F16", "torch.BFloat16Storage": "BF16",
    "torch.DoubleStorage": "F64", "torch.BoolStorage": "BOOL", "torch.ByteStorage": "U8",
    "torch.CharStorage": "I8", "torch.ShortStorage": "I16", "torch.IntStorage": "I32",
    "torch.LongStorage": "I64",
}  # fmt: skip
MAX_AXES, LARGEST = 8, 2**48
# Tied weights share a storage, so all tensors together may be larger than the file, by at most this factor.
SHARED = 8


@dataclass(frozen=True)
class _Storage:
    """A storage: `count` numbers of one kind in the file. Tensors are views of a storage."""

    kind: str
    key: str
    count: int

    @property
    def size(self) -> int:
        return self.count * KINDS[self.kind].record.itemsize


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage. `offset` and `strides` count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def span(self) -> int:
        """The number of elements of the storage from the tensor's first element to its last."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))

    @property
    def contiguous(self) -> bool:
        """Whether the elements are contiguous in row-major order."""
        want = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != want:
                return False
            want *= size
        return True

    def part(self, index: int) -> _Tensor:
        """Return the part of the tensor at this index of its first axis."""
        return _Tensor(self.storage, self.offset + index * self.strides[0], self.shape[1:], self.strides[1:])


class _Tensors:
    """The functions that make tensors and storages from the calls in a state_dict's pickle. Code of torch
    isn't run.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self.storages: dict[str, _Storage] = {}
        self.calls = {
            "collections.OrderedDict": self._ordered_dict,
            "torch.Size": self._size,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor_v2,
            "torch._utils._rebuild_parameter": self._parameter,
            **dict.fromkeys(STORAGES),
        }

    def _fail(self, must: str) -> CheckpointError:
        return CheckpointError(f"{self._where}: the pickle must have {must}")

    def storage(self, stated: Any) -> _Storage:
        """Return the storage that a persistent id refers to.

        The id is ("storage", class, key, device, count). Before torch 1.6, the id may end with a view, which
        must be None.
        """
        match stated:
            case ("storage", Name(text=name), str(key), str(), int(count), *view) if (
                name in STORAGES and view in ([], [None]) and _whole(count)
            ):
                storage = _Storage(STORAGES[name], key, count)
            case _:
                raise self._fail("a class, a key, a device and a count for each storage")
        if self.storages.setdefault(key, storage) != storage:
            raise self._fail(f"the same class and count in all places that name the storage {key!r:.40}")
        return storage

    def _ordered_dict(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if arguments:
            raise self._fail("only OrderedDicts that begin empty")
        return {}

    def _size(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        match arguments:
            case (tuple(sizes),):
                return sizes
        raise self._fail("a tuple for each torch.Size")

    def _tensor(self, arguments: tuple[Any, ...]) -> _Tensor:
        match arguments:
            case (_Storage() as storage, int(offset), tuple(shape), tuple(strides)):
                pass
            case _:
                raise self._fail("storage, offset, size and stride for each tensor")
        whole = all(_whole(number) for number in (offset, *shape, *strides))
        if not whole or len(shape) != len(strides) or len(shape) > MAX_AXES:
            raise self._fail(f"at most {MAX_AXES} sizes for each tensor, and as many strides, none negative")
        tensor = _Tensor(storage, offset, shape, strides)
        if tensor.span and offset + tensor.span > storage.count:
            raise self._fail(
                f"only tensors inside of their storages, but shape {list(shape)} from number {offset} on, in "
                f"steps of {list(strides)}, needs more than the {storage.count} numbers of storage "
                f"{storage.key!r:.40}"
            )
        return tensor

    def _tensor_v2(self, arguments: tuple[Any, ...]) -> _Tensor:
        # What follows: requires_grad, hooks that would be called in training, and flags of complex numbers.
        if not 6 <= len(arguments) <= 7 or any(arguments[5:]):
            raise self._fail("only tensors without hooks and without flags")
        return self._tensor(arguments[:4])

    def _parameter(self, arguments: tuple[Any, ...]) -> _Tensor:
        match arguments:
            case (_Tensor() as tensor, bool(), hooks) if not hooks:
                return tensor
        raise self._fail("only parameters that are tensors without hooks")


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST


class TorchFile:
    """The tensors of one file of torch.save, by name. A tensor is read only when it is needed.

    Raises CheckpointError for any other file, and for a file whose pickle contains anything other than
    tensors.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = FileBytes(path)
        named = _Tensors(str(path))
        first = self._file.read(0, min(len(self._file), 4)).tobytes()
        if first == b"PK\3\4":
            self._tensors, self._begins = self._read_zip(named)
        elif first[:1] == b"\x80":
            self._tensors, self._begins = self._read_pickles(named)
        else:
            raise CheckpointError(
                f"{path}: must be a zip or a pickle of torch.save, but it begins with {first!r}: is the file "
                "damaged?"
            )

    def _read_zip(self, named: _Tensors) -> tuple[dict[str, _Tensor], dict[str, int]]:
        """Read a file of torch 1.6 or later. Return the tensors by name, and by key the position of the first
        byte of each storage.
        """
        entries = stored_entries(self._file)
        folders = [name.removesuffix("/data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(folders) != 1:
            raise CheckpointError(
                f"{self.path}: must have one data.pkl, but it has {len(folders)}: torch.save didn't write it"
            )
        if f"{folders[0]}/constants.pkl" in entries:
            raise CheckpointError(
                f"{self.path}: contains a TorchScript program, not only weights: save the model's "
                "state_dict()"
            )
        order = entries.get(f"{folders[0]}/byteorder")
        if (
            order is not None
            and self._file.read(order[0], min(order[1], order[0] + 8)).tobytes() != b"little"
        ):
            raise CheckpointError(f"{self.path}: must have been written on a little-endian machine")
        cursor = Cursor(self._file, "the pickle", *entries[f"{folders[0]}/data.pkl"])
        tensors = self._checked(PickleReader(cursor, named.calls, named.storage).read())
        begins = {}
        for key, storage in named.storages.items():
            begin, end = entries.get(f"{folders[0]}/data/{key}", (0, -1))
            if end - begin != storage.size:
                raise self._misplaced(key, storage, end - begin)
            begins[key] = begin
        return tensors, begins

    def _read_pickles(self, named: _Tensors) -> tuple[dict[str, _Tensor], dict[str, int]]:
        """Read a file of torch before 1.6. Return the tensors by name, and by key the position of the first
        byte of each storage.
        """
        cursor = Cursor(self._file, "the pickle")
        pickles = PickleReader(cursor, named.calls, named.storage)
        magic, version, system = pickles.read(), pickles.read(), pickles.read()
        if (magic, version) != (MAGIC, PROTOCOL) or type(system) is not dict:
            raise CheckpointError(
                f"{self.path}: must begin like a file of torch.save, but it is a pickle of another kind"
            )
        if system.get("little_endian") is not True:
            raise CheckpointError(f"{self.path}: must have been written on a little-endian machine")
        tensors = self._checked(pickles.read())
        keys, begins = pickles.read(), {}
        if type(keys) is not list or {type(key) for key in keys} - {str} or set(keys) != set(named.storages):
            raise CheckpointError(
                f"{self.path}: must list the storages that contain its tensors: the file is damaged"
            )
        for key in keys:
            storage = named.storages[key]
            count = cursor.number("<Q", f"storage {key!r:.40}")
            begins[key] = cursor.at
            if count != storage.count or len(self._file) - cursor.at < storage.size:
                raise self._misplaced(key, storage, len(self._file) - cursor.at)
            cursor.at += storage.size
        return tensors, begins

    def _misplaced(self, key: str, storage: _Storage, there: int) -> CheckpointError:
        return CheckpointError(
            f"{self.path}: storage {key!r:.40} of {storage.count} {storage.kind} needs {storage.size} bytes, "
            f"but the file has {max(there, 0)} bytes for this storage: the file is truncated or damaged"
        )

    def _checked(self, values: Any) -> dict[str, _Tensor]:
        """Return the tensors by name. Raises CheckpointError for other values, or if all tensors together
        have more than `SHARED` times the file's size.
        """
        if type(values) is not dict:
            raise CheckpointError(
                f"{self.path}: must contain tensors by name, but it is a {type(values).__name__}"
            )
        total = 0
        for name, tensor in values.items():
            if type(name) is not str or type(tensor) is not _Tensor:
                raise CheckpointError(
                    f"{self.path}: must contain tensors by name, but {name!r:.80} is a "
                    f"{type(tensor).__name__}: save only the model's state_dict()"
                )
            total += math.prod(tensor.shape) * KINDS[tensor.storage.kind].record.itemsize
        if total > SHARED * len(self._file):
            raise CheckpointError(
                f"{self.path}: the tensors may have at most {SHARED} times the file's size, "
                f"{len(self._file)} bytes, but the tensors have {total} bytes"
            )
        return values

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._tensors)

    def kind(self, name: str) -> str:
        """Return the type in which the tensor is stored: F32, BF16, …"""
        return self._tensors[name].storage.kind

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[name].shape

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        """Return the tensor as float32. If `part` is given, return only this index of the first axis."""
        tensor = self._view(name, part)
        require_readable(tensor.storage.kind, f"{self.path}: {name!r:.80}")
        return numbers(self._bytes(tensor), tensor.storage.kind, tensor.shape)

    def raw(self, name: str, part: int | None = None) -> np.ndarray:
        """Return a tensor of whole numbers as it is stored. If `part` is given, return only this index of the
        first axis.
        """
        tensor = self._view(name, part)
        return self._bytes(tensor).view(CODES[tensor.storage.kind]).reshape(tensor.shape)

    def _view(self, name: str, part: int | None) -> _Tensor:
        return self._tensors[name] if part is None else self._tensors[name].part(part)

    def _bytes(self, tensor: _Tensor) -> np.ndarray:
        """Return the bytes of a tensor's elements in row-major order."""
        size = KINDS[tensor.storage.kind].record.itemsize
        begin = self._begins[tensor.storage.key] + tensor.offset * size
        data = self._file.read(begin, begin + tensor.span * size)
        if tensor.contiguous:
            return data
        steps = [size * stride for stride in tensor.strides]
        # The constructor has checked that the last element lies in the storage.
        view = np.lib.stride_tricks.as_strided(data.view(f"V{size}"), tensor.shape, steps)
        return np.ascontiguousarray(view).reshape(-1).view(np.uint8)

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        """Return None, because a torch file stores no blocks."""
        return None

"""Read model.bin of CTranslate2, version 6: named variables in one little-endian file.

    u32 6  text specification  u32 its revision
    u32 number of variables; for each:  text name  u8 number of axes  u32 size of each axis  u8 type
                                        u32 number of bytes  the numbers, row-major
    u32 number of aliases; for each:    text alias  text name of the variable
    A text is: u16 length including the zero byte, the bytes, a zero byte

If a variable NAME of int8 or int16 codes has a variable NAME_scale, the two are a weight: code / scale. There
is one scale, or one scale for each part along the first axis. Every length and count is compared with the
rest of the file before it is used. Each name must occur only once.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import CheckpointError
from .cursor import Cursor
from .dtypes import KINDS, widen
from .file_bytes import FileBytes

VERSION = 6
TYPES = ("F32", "I8", "I16", "I32", "F16", "BF16")
CODES = {"I8": "i1", "I16": "<i2", "I32": "<i4"}
MAX_COUNT, MAX_AXES, VARIABLE = 20_000, 4, 800  # bytes that a variable takes beside its name
NAME = re.compile(rb"[\w/.-]+\0", re.ASCII)
SCALE = "_scale"


@dataclass(frozen=True)
class Variable:
    """A variable of the file. `kind` is its number format, and `begin` is the position of its first byte in
    the file.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    begin: int


class CTranslate2File:
    """The variables of a CTranslate2 file by name, including aliases. The numbers of a variable are read only
    when they are needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = FileBytes(path)
        cursor = Cursor(self._file, "the variables")
        if (version := cursor.number("<I", "the version")) != VERSION:
            raise cursor.fail(
                f"must be a model of CTranslate2, version {VERSION}, but it begins with {version:#x}: "
                "convert the original model again, or take it in safetensors"
            )
        self.specification = f"{_text(cursor)} {cursor.number('<I', 'the revision')}"
        self.variables: dict[str, Variable] = {}
        for _ in range(_count(cursor, "variables")):
            self._add(cursor, _variable(cursor))
        for _ in range(_count(cursor, "aliases")):
            alias, name = _text(cursor), _text(cursor)
            if name not in self.variables:
                raise cursor.fail(
                    f"{alias!r:.80} must be another name of a variable, but {name!r:.80} isn't a variable"
                )
            self._add(cursor, self.variables[name], alias)
        if cursor.at != cursor.end:
            raise cursor.fail(f"{cursor.end - cursor.at} bytes follow the last name: the file is damaged")

    def _add(self, cursor: Cursor, variable: Variable, alias: str = "") -> None:
        name = alias or variable.name
        if name in self.variables:
            raise cursor.fail(f"variable {name!r:.80} occurs twice")
        cursor.hold(VARIABLE + len(name), repr(name))
        self.variables[name] = variable

    def __getitem__(self, name: str) -> Variable:
        if name not in self.variables:
            raise CheckpointError(f"{self.path}: variable {name!r:.80} is missing")
        return self.variables[name]

    def number(self, name: str) -> int:
        """Return the value of a variable that is a single whole number. Raises CheckpointError for any other
        variable.
        """
        variable = self[name]
        if variable.shape or variable.kind not in CODES:
            raise CheckpointError(
                f"{self.path}: {name!r} must be a whole number, but it is {variable.kind} "
                f"{list(variable.shape)}"
            )
        return self._bytes(variable, 0, 1).view(CODES[variable.kind])[0].item()

    def weight(self, name: str, begin: int, end: int) -> np.ndarray:
        """Return the parts `begin` to `end` (excluded) of a weight along its first axis, as float32."""
        variable = self[name]
        data, shape = self._bytes(variable, begin, end), (end - begin, *variable.shape[1:])
        if variable.kind not in CODES:
            return widen(data, variable.kind, shape)
        scale = self[variable.name + SCALE]
        if scale.kind != "F32" or scale.shape not in ((), variable.shape[:1]):
            raise CheckpointError(
                f"{self.path}: {scale.name!r:.80} must be F32 with one number or {variable.shape[0]}, but "
                f"it is {scale.kind} {list(scale.shape)}"
            )
        rows = (begin, end) if scale.shape else (0, 1)
        divisors = self._bytes(scale, *rows).view("<f4").reshape(-1, *(1,) * (len(shape) - 1))
        with np.errstate(all="ignore"):  # whoever loads a weight checks that it is finite
            return data.view(CODES[variable.kind]).reshape(shape).astype(np.float32) / divisors

    def _bytes(self, variable: Variable, begin: int, end: int) -> np.ndarray:
        """Return the bytes of the parts `begin` to `end` (excluded) of a variable along its first axis."""
        size = math.prod(variable.shape[1:]) * KINDS[variable.kind].record.itemsize
        return self._file.read(variable.begin + begin * size, variable.begin + end * size)


def _count(cursor: Cursor, what: str) -> int:
    count = cursor.number("<I", f"the number of {what}")
    if count > MAX_COUNT:
        raise cursor.fail(f"may have at most {MAX_COUNT} {what}, but it claims {count}")
    return count


def _text(cursor: Cursor) -> str:
    data = cursor.take(cursor.number("<H", "a name"), "a name")
    if not NAME.fullmatch(data):
        raise cursor.fail(
            f"a name must have only letters, digits and / . - _ before its zero byte, got {data!r:.80}"
        )
    return data[:-1].decode("ascii")


def _variable(cursor: Cursor) -> Variable:
    """Read the description of the next variable, and move past its numbers."""
    name = _text(cursor)
    what = f"variable {name!r:.80}"
    axes = cursor.number("<B", what)
    if axes > MAX_AXES:
        raise cursor.fail(f"{what} may have at most {MAX_AXES} axes, but it claims {axes}")
    shape = tuple(cursor.number("<I", what) for _ in range(axes))
    number = cursor.number("<B", what)
    if number >= len(TYPES):
        raise cursor.fail(f"{what} must be one of {', '.join(TYPES)}, got type {number}")
    size, kind = cursor.number("<I", what), TYPES[number]
    if size != math.prod(shape) * KINDS[kind].record.itemsize:
        raise cursor.fail(f"{what}: {kind} {list(shape)} doesn't have {size} bytes: the file is damaged")
    if size > cursor.end - cursor.at:
        raise cursor.fail(
            f"{what} needs {size} bytes at byte {cursor.at}, but {cursor.end - cursor.at} are left: the "
            "file is truncated"
        )
    begin = cursor.at
    cursor.at += size
    return Variable(name, kind, shape, begin)

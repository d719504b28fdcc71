"""Read SentencePiece models (.model, .spm): pieces with scores, and the rules by which texts are normalized.

A file is one protobuf message (sentencepiece_model.proto):

    1  pieces      repeated:  1 text   2 score, float   3 type
    2  trainer     3 type of model   35 byte_fallback   40 unk_id   41 bos_id   42 eos_id
                   45 unk_piece   46 bos_piece   47 eos_piece
    3  normalizer  2 charsmap   3 add_dummy_prefix   4 remove_extra_whitespaces   5 escape_whitespaces

Fields that aren't listed say how the model was trained, and are skipped. In protobuf a field begins with a
number of up to ten bytes. The low three bits of this number say how the field's value is stored. Every length
MUST fit in the rest of the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError
from .cursor import ROOM
from .file_bytes import read_file

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces
UNIGRAM, BPE = 1, 2  # types of models; others split into words or characters
LARGEST, LONGEST_PIECE, PIECE = 2**26, 4096, 160  # bytes of a file, of a piece, of memory beside its text
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # how values are stored


@dataclass(frozen=True)
class SentencePieceModel:
    """The pieces of a SentencePiece model by id, and the settings that determine ids.

    `kind` is the type of the model, such as UNIGRAM or BPE. An id of -1 means that the model has no such
    piece."""

    where: str
    pieces: list[str]
    scores: list[float]
    types: list[int]
    kind: int
    byte_fallback: bool
    unk_id: int
    bos_id: int
    eos_id: int
    unk_piece: str
    bos_piece: str
    eos_piece: str
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool


class _Message:
    """The bytes of a protobuf message, with methods that read the fields between two positions."""

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where = data, where

    def fail(self, message: str) -> CheckpointError:
        return CheckpointError(f"{self.where}: must be a SentencePiece model: {message}")

    def fields(self, at: int, end: int) -> Iterator[tuple[int, int, Any]]:
        """Yield the fields between two positions as (number, wire type, value).

        The value of a varint is a number. Any other value is a pair of positions, where its bytes begin and
        end.
        """
        while at < end:
            key, at = self.varint(at, end)
            stored, size = key & 7, {_FIXED32: 4, _FIXED64: 8}.get(key & 7, 0)
            if stored == _VARINT:
                value, at = self.varint(at, end)
            elif stored in (_BYTES, _FIXED32, _FIXED64):
                if stored == _BYTES:
                    size, at = self.varint(at, end)
                value = (at, at + size)
                at += size
                if at > end:
                    raise self.fail(f"field {key >> 3} needs {size} bytes, but {end - at + size} are left")
            else:
                raise self.fail(f"field {key >> 3} has the unknown wire type {stored}")
            yield key >> 3, stored, value

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Read a number stored with 7 bits per byte, low bits first. Return the number, and the position
        after it.
        """
        value = 0
        for shift in range(0, 70, 7):
            if at >= end:
                break
            byte = self.data[at]
            value |= (byte & 127) << shift
            at += 1
            if byte < 128:
                return value, at
        raise self.fail(f"the number before byte {at} has no end: the file is truncated or damaged")

    def text(self, span: tuple[int, int]) -> str:
        try:
            return self.data[slice(*span)].decode("utf-8")
        except UnicodeDecodeError:
            raise self.fail("texts must be UTF-8") from None

    def values(self, span: tuple[int, int], kinds: dict[int, int]) -> dict[int, Any]:
        """Return the last value of each field in `kinds`, which maps the numbers of fields to wire types.
        Other fields are skipped.

        Raises CheckpointError if one of these fields has another wire type.
        """
        values: dict[int, Any] = {}
        for number, stored, value in self.fields(*span):
            if number in kinds:
                if stored != kinds[number]:
                    raise self.fail(
                        f"field {number} must be stored as {kinds[number]}, but it is stored as {stored}"
                    )
                values[number] = value
        return values


_PIECE = {1: _BYTES, 2: _FIXED32, 3: _VARINT}
_TRAINER = {
    3: _VARINT,
    35: _VARINT,
    40: _VARINT,
    41: _VARINT,
    42: _VARINT,
    45: _BYTES,
    46: _BYTES,
    47: _BYTES,
}
_TRAINER |= {24: _VARINT}
_NORMALIZER = {2: _BYTES, 3: _VARINT, 4: _VARINT, 5: _VARINT}


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Return the SentencePiece model of a file. Raises CheckpointError for anything that isn't a complete
    model.
    """
    message = _Message(read_file(path, LARGEST), str(path))
    pieces: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    room = ROOM + len(message.data)
    for number, stored, span in message.fields(0, len(message.data)):
        if number in (1, 2, 3) and stored != _BYTES:
            raise message.fail(f"field {number} must be stored as {_BYTES}, but it is stored as {stored}")
        if number == 2:
            trainer |= message.values(span, _TRAINER)
        elif number == 3:
            normalizer |= message.values(span, _NORMALIZER)
        elif number == 1:
            room -= PIECE + 4 * (span[1] - span[0])
            if room < 0 or span[1] - span[0] > LONGEST_PIECE:
                raise message.fail(f"piece {len(pieces)} is too long, or there are too many pieces")
            values = message.values(span, _PIECE)
            pieces.append(message.text(values.get(1, (0, 0))))
            scores.append(struct.unpack("<f", message.data[slice(*values[2])])[0] if 2 in values else 0.0)
            types.append(values.get(3, NORMAL))
            if not math.isfinite(scores[-1]) or not NORMAL <= types[-1] <= BYTE:
                raise message.fail(f"piece {pieces[-1]!r:.40} must have a finite score and a type of 1 to 6")
    if not pieces or len(set(pieces)) < len(pieces):
        raise message.fail(f"all pieces must differ, but only {len(set(pieces))} of {len(pieces)} do")
    return _model(message, (pieces, scores, types), trainer, normalizer)


def _model(
    message: _Message,
    pieces: tuple[list[str], list[float], list[int]],
    trainer: dict[int, Any],
    normalizer: dict[int, Any],
) -> SentencePieceModel:
    """Return the model that these pieces and fields state. Settings that the file doesn't state have
    SentencePiece's defaults.
    """
    ids = []
    for number, default in ((40, 0), (41, 1), (42, 2)):
        stated = trainer.get(number, default)
        id = -1 if stated >= 2**31 else stated  # -1 takes all ten bytes
        if id >= len(pieces[0]):
            raise message.fail(f"the special ids must be ids of the {len(pieces[0])} pieces, got {id}")
        ids.append(id)
    texts = [
        message.text(trainer[number]) if number in trainer else default
        for number, default in ((45, "<unk>"), (46, "<s>"), (47, "</s>"))
    ]
    if trainer.get(24, 0):
        raise message.fail("treat_whitespace_as_suffix must be false")
    charsmap = normalizer.get(2, (0, 0))
    return SentencePieceModel(
        where=message.where,
        pieces=pieces[0],
        scores=pieces[1],
        types=pieces[2],
        kind=trainer.get(3, UNIGRAM),
        byte_fallback=bool(trainer.get(35, 0)),
        unk_id=ids[0],
        bos_id=ids[1],
        eos_id=ids[2],
        unk_piece=texts[0],
        bos_piece=texts[1],
        eos_piece=texts[2],
        charsmap=message.data[slice(*charsmap)],
        add_dummy_prefix=bool(normalizer.get(3, 1)),
        remove_extra_whitespaces=bool(normalizer.get(4, 1)),
        escape_whitespaces=bool(normalizer.get(5, 1)),
    )

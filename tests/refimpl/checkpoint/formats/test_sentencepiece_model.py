"""SentencePiece models: all pieces and settings as protobuf's own parser reads them; what is refused."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from helpers.mutators import any_bytes
from helpers.refused import refused
from helpers.vocabulary_directories import MODELS, spm
from sentencepiece import sentencepiece_model_pb2
from tfm.refimpl.checkpoint.formats.sentencepiece_model import SentencePieceModel, read_sentencepiece
from tfm.refimpl.errors import CheckpointError


def read(folder: Path, data: bytes) -> SentencePieceModel:
    (folder / "x.model").write_bytes(data)
    return read_sentencepiece(folder / "x.model")


@pytest.mark.parametrize("kind", MODELS)
def test_models_are_those_that_protobuf_reads(tmp_path, kind):
    theirs = sentencepiece_model_pb2.ModelProto.FromString(spm(kind))
    trainer, normalizer = theirs.trainer_spec, theirs.normalizer_spec
    assert read(tmp_path, spm(kind)) == SentencePieceModel(
        str(tmp_path / "x.model"),
        [piece.piece for piece in theirs.pieces],
        [piece.score for piece in theirs.pieces],
        [piece.type for piece in theirs.pieces],
        trainer.model_type,
        trainer.byte_fallback,
        trainer.unk_id,
        trainer.bos_id,
        trainer.eos_id,
        trainer.unk_piece,
        trainer.bos_piece,
        trainer.eos_piece,
        normalizer.precompiled_charsmap,
        normalizer.add_dummy_prefix,
        normalizer.remove_extra_whitespaces,
        normalizer.escape_whitespaces,
    )


def message(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def varint(value: int) -> bytes:
    data = b""
    while value > 127:
        data, value = data + bytes([value & 127 | 128]), value >> 7
    return data + bytes([value])


PIECE = message(1, message(1, b"a"))
INFINITE = struct.pack("<f", float("inf"))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "pieces 0 0"),
        (b"\xff", "truncated"),
        (b"\xff" * 11, "truncated"),
        (b"\x0a\xff\xff\xff\xff\x7f", "field 1 34359738367 0"),
        (PIECE * 2, "pieces 1 2"),
        (PIECE[:-1], "field 1 3 2"),
        (b"\x0b", "1 unknown 3"),
        (b"\x08\x01", "1 stored 2 0"),
        (message(1, b"\x08\x01"), "1 stored 2 0"),
        (message(1, b"\x12\x00"), "2 stored 5 2"),
        (message(1, message(1, b"\xff")), "texts UTF-8"),
        (message(1, message(1, b"a") + b"\x15" + INFINITE), "'a'"),
        (message(1, message(1, b"a") + b"\x18\x07"), "type 1 6"),
        (message(1, message(1, b"a" * 5000)), "piece 0"),
        (b"\x0a\x00" * 300_000, "many"),
        (PIECE + message(2, b"\xc0\x02\x01"), "ids 1 1"),
        (PIECE + message(2, b"\xc8\x02\x00\xd0\x02\x00\xc0\x01\x01"), "treat_whitespace_as_suffix false"),
    ],
)
def test_refused(tmp_path, data, words):
    with refused(CheckpointError, *words.split()):
        read(tmp_path, data)


def test_mutants(tmp_path):
    """Changed anywhere: each is read, or refused in one line."""
    outcomes, messages = [], []
    for seed in range(150):
        try:
            read(tmp_path, any_bytes(spm("bpe"), random.Random(seed)))
            outcomes.append(True)
        except CheckpointError as error:
            outcomes.append(False)
            messages.append(str(error))
    assert 15 < sum(outcomes) < 135
    assert not [message for message in messages if "\n" in message]

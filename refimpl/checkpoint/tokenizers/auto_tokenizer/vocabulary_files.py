"""Read vocabularies from before tokenizer.json: vocab.txt, vocab.json with merges.txt, and SentencePiece
models.

These files contain only tokens. The tokenizer class of transformers determines the rest of the tokenizer. If
no class is named, the SentencePiece model determines the rest.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ....errors import CheckpointError
from ...formats.sentencepiece_model import BPE, CONTROL, UNIGRAM, USER_DEFINED, SentencePieceModel
from ...formats.strict_json import parse
from ..character_classes import SPACES
from .added_vocabulary import NewToken

VOCAB_TXT, VOCAB_JSON, MERGES = "vocab.txt", "vocab.json", "merges.txt"
LONGEST_PIECE = 256  # letters; SentencePiece's own limit is 16: merges are found by splitting in all ways


@dataclass(frozen=True)
class Vocabulary:
    """The contents of vocabulary files, in the form of the model in a tokenizer.json.

    `sentencepiece` is the SentencePiece model that was read, if any. `added` are the pieces of this model
    that are also added tokens.
    """

    where: str
    tokens: dict[str, int] | list[tuple[str, float]]
    merges: list[tuple[str, str]] = field(default_factory=list)
    charsmap: str | None = None
    added: tuple[NewToken, ...] = ()
    sentencepiece: SentencePieceModel | None = None


def of_lines(text: str, where: str) -> Vocabulary:
    """Read a vocab.txt, with one token on each line. White space at the end of a line is removed. The id of a
    token that occurs twice is its last line."""
    return Vocabulary(where, {line.rstrip("".join(SPACES)): id for id, line in enumerate(_lines(text))})


def of_merges(text: str, merges: str | None, where: str) -> Vocabulary:
    """Read the id of each token from a vocab.json, and the pairs of tokens to merge, in order of priority,
    from a merges.txt."""
    tokens = parse(text, where)
    if not isinstance(tokens, dict) or not all(type(id) is int and id >= 0 for id in tokens.values()):
        raise CheckpointError(f"{where}: must be an object of tokens with ids from 0, got {tokens!r:.60}")
    if merges is None:
        raise CheckpointError(f"{where}: {MERGES} must be in the same folder")
    pairs = []
    for line in _lines(merges):
        if line.startswith("#version"):
            continue
        left, space, right = line.partition(" ")
        if not space or " " in right:
            raise CheckpointError(f"{where}: a line of {MERGES} must be two tokens, got {line!r:.60}")
        pairs.append((left, right))
    return Vocabulary(where, tokens, pairs)


def of_sentencepiece(model: SentencePieceModel, kind: str | None) -> Vocabulary:
    """Read a SentencePiece model. `kind`, "BPE" or "Unigram", is the type that the tokenizer class needs, or
    None without a class.

    The merges of BPE follow from the order of the pieces: they are all splits of a piece into two other
    pieces. Raises CheckpointError for a model of another type.
    """
    if kind is not None and model.kind != {"BPE": BPE, "Unigram": UNIGRAM}.get(kind):
        raise CheckpointError(f"{model.where}: must be a {kind} model for this class of tokenizer")
    charsmap = base64.b64encode(model.charsmap).decode() if model.charsmap else None
    added = tuple(
        NewToken(piece, normalized=False, special=type == CONTROL)
        for piece, type in zip(model.pieces, model.types, strict=True)
        if type in (CONTROL, USER_DEFINED)
    )
    if kind != "BPE":
        pieces = list(zip(model.pieces, model.scores, strict=True))
        return Vocabulary(model.where, pieces, charsmap=charsmap, added=added, sentencepiece=model)
    ids = {piece: id for id, piece in enumerate(model.pieces)}
    merges = [split for piece in model.pieces for split in splits_of(piece, ids, model.where)]
    return Vocabulary(model.where, ids, merges, charsmap, added, model)


def splits_of(piece: str, others: Mapping[str, Any], where: str) -> list[tuple[str, str]]:
    """Return all splits of a piece into two pieces that are in `others`. Raises CheckpointError for a piece
    that is too long.
    """
    if len(piece) > LONGEST_PIECE:
        raise CheckpointError(f"{where}: pieces may have at most {LONGEST_PIECE} letters, got {piece!r:.40}")
    parts = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
    return [(left, right) for left, right in parts if left in others and right in others]


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]

"""A tokenizer.json as a tokenizer: text to ids with their places in it, and ids to text.

    text ─ added tokens cut out ─ normalizer ─ added tokens again ─ pre-tokenizer ─ model ─ post-processor

What a file states is known, or an error names it. `truncation` and `padding` are no part of what a
text means but of how a batch is laid out: they are kept in the file and not applied.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, LimitError
from ..formats.mapped_file import read_file
from ..formats.strict_json import parse
from . import bpe, unigram, wordpiece
from .added import Finder, read_added
from .aligned import Aligned, Span
from .decoders import read_decoder
from .normalizers import read_normalizer
from .options import component
from .postprocessors import Placed, read_processor
from .pretokenizers import read_pretokenizer

FILE_BYTES = 64 * 2**20
TEXT = 4 * 2**20  # characters; each takes some hundred bytes
MODELS = {"BPE": bpe.KIND, "Unigram": unigram.KIND, "WordPiece": wordpiece.KIND}
STEPS = {
    "normalizer": read_normalizer,
    "pre_tokenizer": read_pretokenizer,
    "post_processor": read_processor,
    "decoder": read_decoder,
}
KEYS = {"version", "truncation", "padding", "added_tokens", "model", *STEPS}


@dataclass(frozen=True)
class Encoding:
    """A text's tokens: ids, pieces, the characters (from, to) of each, and the segment of each."""

    ids: list[int]
    pieces: list[str]
    offsets: list[Span]
    segments: list[int]


class Tokenizer:
    """A tokenizer as the object `plan` of a tokenizer.json states it."""

    def __init__(self, plan: dict[str, Any]) -> None:
        if unknown := sorted(plan.keys() - KEYS):
            raise CheckpointError(f"tokenizer.json has no key {unknown[0]!r:.60}")
        if plan.get("version", "1.0") != "1.0":
            raise CheckpointError(f"version must be '1.0', got {plan['version']!r:.40}")
        self.plan = plan
        self.model: bpe.BPE | unigram.Unigram | wordpiece.WordPiece = component(
            plan.get("model"), MODELS, "model"
        )
        steps = {key: None if plan.get(key) is None else read(plan[key], key) for key, read in STEPS.items()}
        self._normalizer, self._pretokenizer = steps["normalizer"], steps["pre_tokenizer"]
        self._processor, self._decoder = steps["post_processor"], steps["decoder"]
        vocabulary = dict(self.model.vocabulary)
        pieces = len(self.model.scored) if isinstance(self.model, unigram.Unigram) else len(vocabulary)
        added = read_added(plan.get("added_tokens", []), vocabulary, pieces)
        self._plain = Finder([token for token in added if not token.normalized])
        self._normal = Finder([token for token in added if token.normalized], self._normalized)
        self.ids = vocabulary | {token.content: token.id for token in added}
        self.pieces = {number: piece for piece, number in self.model.vocabulary.items()}
        if isinstance(self.model, unigram.Unigram):
            self.pieces = {i: piece for i, (piece, _) in enumerate(self.model.scored)}
        self.pieces |= {t.id: self._normalized(t.content) if t.normalized else t.content for t in added}
        self._special = {token.content for token in added if token.special}

    def _normalized(self, text: str) -> str:
        return text if self._normalizer is None else self._normalizer(Aligned.of(text)).text

    def words(self, text: str) -> list[Aligned]:
        """A text without added tokens, normalized and cut into words: what a trainer counts."""
        piece = Aligned.of(_checked(text))
        pieces = [piece if self._normalizer is None else self._normalizer(piece)]
        pieces = [piece for piece in pieces if piece.text]
        return pieces if self._pretokenizer is None else self._pretokenizer(pieces)

    def encode(self, text: str, pair: str | None = None, *, special: bool = True) -> Encoding:
        """The tokens of a text or of a pair, with what the post-processor adds where `special`."""
        texts = [self._encode(t, i) for i, t in enumerate((text, pair)) if t is not None]
        if self._processor is not None:
            texts = self._processor(texts, special)
        placed = [token for tokens in texts for token in tokens]
        return Encoding(
            [t.id for t in placed],
            [t.piece for t in placed],
            [t.span for t in placed],
            [t.segment for t in placed],
        )

    def _encode(self, text: str, segment: int) -> list[Placed]:
        found: list[Placed] = []
        for piece, number in self._plain.cut(Aligned.of(_checked(text))):
            if number is not None:
                found.append(_whole(piece, number, segment))
                continue
            normal = piece if self._normalizer is None else self._normalizer(piece)
            for part, token in self._normal.cut(normal):
                if token is not None:
                    found.append(_whole(part, token, segment))
                    continue
                for word in [part] if self._pretokenizer is None else self._pretokenizer([part]):
                    found += [
                        Placed(t.id, t.piece, (word.spans[t.start][0], word.spans[t.end - 1][1]), segment)
                        for t in self.model.tokenize(word.text)
                    ]
        return found

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of ids, with special tokens only where `special`; ids that aren't known say nothing."""
        pieces = [self.pieces[i] for i in ids if i in self.pieces]
        pieces = [piece for piece in pieces if special or piece not in self._special]
        return " ".join(pieces) if self._decoder is None else "".join(self._decoder(pieces))


def _whole(piece: Aligned, number: int, segment: int) -> Placed:
    return Placed(number, piece.text, (piece.spans[0][0], piece.spans[-1][1]), segment)


def _checked(text: str) -> str:
    if len(text) > TEXT:
        raise LimitError(f"a text may have {TEXT} characters, this one has {len(text)}")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise LimitError("a text must be Unicode without lone surrogates")
    return text


def read(text: str | bytes, where: str = "tokenizer.json") -> Tokenizer:
    """The tokenizer of a tokenizer.json's text; CheckpointError names what isn't known."""
    if len(text) > FILE_BYTES:
        raise LimitError(f"{where} may have {FILE_BYTES} bytes, it has {len(text)}")
    plan = parse(text, where)
    if not isinstance(plan, dict):
        raise CheckpointError(f"{where} must be an object, got {plan!r:.60}")
    try:
        return Tokenizer(plan)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None


def load(path: Path | str) -> Tokenizer:
    """The tokenizer of a file, or of the tokenizer.json in a directory."""
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    return read(read_file(path, FILE_BYTES), str(path))


def dumps(tokenizer: Tokenizer) -> str:
    """The text of its tokenizer.json."""
    return json.dumps(tokenizer.plan, ensure_ascii=False, indent=2)


def save(tokenizer: Tokenizer, path: Path | str) -> None:
    """Write tokenizer.json, whole or not at all."""
    import os

    path = Path(path)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(new, "w", encoding="utf-8") as file:
            file.write(dumps(tokenizer))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)

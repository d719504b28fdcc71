"""The tokenizer that a tokenizer.json describes. It turns text into ids with their offsets, and ids into
text.

    text ─ split at added tokens ─ normalizer ─ split again ─ pre-tokenizer ─ model ─ post-processor

An unknown option raises an error that names it. The options `truncation` and `padding` concern batches, not
single texts. They stay in the file but aren't applied.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, LimitError
from ..formats.file_bytes import read_file
from ..formats.strict_json import parse
from ..formats.whole_file import write_whole
from . import bpe, unigram, wordpiece
from .added_tokens import AddedTokenSplitter, read_added_tokens
from .components import read_component
from .decoders import read_decoder
from .normalized_string import NormalizedString, Span
from .normalizers import read_normalizer
from .post_processors import EncodedToken, read_post_processor
from .pre_tokenizers import read_pre_tokenizer

FILE_BYTES = 64 * 2**20
MAX_TEXT = 4 * 2**20  # characters; each takes some hundred bytes
MODELS = {"BPE": bpe.COMPONENT_TYPE, "Unigram": unigram.COMPONENT_TYPE, "WordPiece": wordpiece.COMPONENT_TYPE}
STEPS = {
    "normalizer": read_normalizer,
    "pre_tokenizer": read_pre_tokenizer,
    "post_processor": read_post_processor,
    "decoder": read_decoder,
}
KEYS = {"version", "truncation", "padding", "added_tokens", "model", *STEPS}


@dataclass(frozen=True)
class Encoding:
    """The tokens of an encoded text: their ids, their strings, their ranges in the text, and their
    segments.
    """

    ids: list[int]
    tokens: list[str]
    offsets: list[Span]
    type_ids: list[int]


class Tokenizer:
    """A tokenizer in plain Python. `definition` is the JSON object of its tokenizer.json."""

    def __init__(self, definition: dict[str, Any]) -> None:
        if unknown := sorted(definition.keys() - KEYS):
            raise CheckpointError(f"unknown key {unknown[0]!r:.60}, which a tokenizer.json can't have")
        if definition.get("version", "1.0") != "1.0":
            raise CheckpointError(f"version must be '1.0', got {definition['version']!r:.40}")
        self.definition = definition
        self.model: bpe.BPE | unigram.Unigram | wordpiece.WordPiece = read_component(
            definition.get("model"), MODELS, "model"
        )
        steps = {}
        for key, read_step in STEPS.items():
            value = definition.get(key)
            steps[key] = None if value is None else read_step(value, key)
        self._normalizer = steps["normalizer"]
        self._pre_tokenizer = steps["pre_tokenizer"]
        self._post_processor = steps["post_processor"]
        self._decoder = steps["decoder"]
        # All tokens: strings to ids, and ids to strings. A unigram model may have a string twice.
        self.vocabulary = dict(self.model.vocabulary)
        self.tokens = {id: token for token, id in self.model.vocabulary.items()}
        if isinstance(self.model, unigram.Unigram):
            self.tokens = {i: piece for i, (piece, _) in enumerate(self.model.scored_pieces)}
        added = read_added_tokens(definition.get("added_tokens", []), self.vocabulary, len(self.tokens))
        self._splitter = AddedTokenSplitter([token for token in added if not token.normalized])
        self._normalized_splitter = AddedTokenSplitter(
            [token for token in added if token.normalized], self._normalize
        )
        for token in added:
            self.vocabulary[token.content] = token.id
            self.tokens[token.id] = self._normalize(token.content) if token.normalized else token.content
        self._special_tokens = {token.content for token in added if token.special}

    def _normalize(self, text: str) -> str:
        return text if self._normalizer is None else self._normalizer(NormalizedString.from_text(text)).text

    def pre_tokenize(self, text: str) -> list[NormalizedString]:
        """Split a text into normalized words, and leave added tokens out. A trainer counts these words."""
        whole = NormalizedString.from_text(_check_text(text))
        if self._normalizer is not None:
            whole = self._normalizer(whole)
        parts = [whole] if whole.text else []
        return parts if self._pre_tokenizer is None else self._pre_tokenizer(parts)

    def encode(self, text: str, pair: str | None = None, *, add_special_tokens: bool = True) -> Encoding:
        """Return the tokens of a text, or of a pair of texts.

        With `add_special_tokens` the post-processor adds its tokens.
        """
        texts = [self._encode(text, 0)]
        if pair is not None:
            texts.append(self._encode(pair, 1))
        if self._post_processor is not None:
            texts = self._post_processor(texts, add_special_tokens)
        tokens = [token for text_tokens in texts for token in text_tokens]
        return Encoding(
            [token.id for token in tokens],
            [token.value for token in tokens],
            [token.offsets for token in tokens],
            [token.type_id for token in tokens],
        )

    def _encode(self, text: str, type_id: int) -> list[EncodedToken]:
        tokens: list[EncodedToken] = []
        for part, id in self._splitter.split(NormalizedString.from_text(_check_text(text))):
            if id is not None:
                tokens.append(_added_token(part, id, type_id))
                continue
            normalized = part if self._normalizer is None else self._normalizer(part)
            for rest, added_id in self._normalized_splitter.split(normalized):
                if added_id is not None:
                    tokens.append(_added_token(rest, added_id, type_id))
                    continue
                for word in [rest] if self._pre_tokenizer is None else self._pre_tokenizer([rest]):
                    for token in self.model.tokenize(word.text):
                        offsets = (word.spans[token.start][0], word.spans[token.end - 1][1])
                        tokens.append(EncodedToken(token.id, token.value, offsets, type_id))
        return tokens

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Turn ids into text. Unknown ids are left out; so are special tokens if `skip_special_tokens` is
        true."""
        tokens = [self.tokens[id] for id in ids if id in self.tokens]
        if skip_special_tokens:
            tokens = [token for token in tokens if token not in self._special_tokens]
        return " ".join(tokens) if self._decoder is None else "".join(self._decoder(tokens))


def _added_token(part: NormalizedString, id: int, type_id: int) -> EncodedToken:
    return EncodedToken(id, part.text, (part.spans[0][0], part.spans[-1][1]), type_id)


def _check_text(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise LimitError(f"a text may have at most {MAX_TEXT} characters, but it has {len(text)}")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise LimitError("a text must be Unicode without lone surrogates")
    return text


def read(text: str | bytes, where: str = "tokenizer.json") -> Tokenizer:
    """Make a tokenizer from the text of a tokenizer.json. Raises CheckpointError that names an unknown
    option.
    """
    if len(text) > FILE_BYTES:
        raise LimitError(f"{where} may have at most {FILE_BYTES} bytes, but it has {len(text)}")
    definition = parse(text, where)
    if not isinstance(definition, dict):
        raise CheckpointError(f"{where} must be an object, got {definition!r:.60}")
    try:
        return Tokenizer(definition)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from None


def load(path: Path | str) -> Tokenizer:
    """Read a tokenizer from a file, or from the tokenizer.json in a directory."""
    path = Path(path)
    path = path / "tokenizer.json" if path.is_dir() else path
    return read(read_file(path, FILE_BYTES), str(path))


def dumps(tokenizer: Tokenizer) -> str:
    """Return a tokenizer as the text of its tokenizer.json."""
    return json.dumps(tokenizer.definition, ensure_ascii=False, indent=2)


def save(tokenizer: Tokenizer, path: Path | str) -> None:
    """Write a tokenizer to a file. If this fails, an old file stays unchanged."""
    write_whole(Path(path), dumps(tokenizer).encode())

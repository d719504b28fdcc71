"""Turn text into ids and back with the `tokenizers` library. Each failure of the library becomes a
CheckpointError.

A user's text never becomes a control token. Control tokens are the added tokens of tokenizer.json, except the
unknown token and the tokens that are plain text (`text_pieces`). The library panics on some malformed
files.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import tokenizers
import tokenizers.models

from ...refimpl.checkpoint.formats.strict_json import parse
from ...refimpl.checkpoint.tokenizers.auto_tokenizer.clean_up import UNSETTLED, cleans_up
from ...refimpl.errors import CheckpointError, LimitError
from ..silence import silent_stderr
from .control_tokens import Encoding, SecretSpelling
from .text_growth import Growth, check_decoder
from .text_pieces import text_pieces

if TYPE_CHECKING:
    from ...refimpl.checkpoint.protocol import ModelSource
    from ...refimpl.config import Config

LIMITS = {"tokenizer.json": 64 * 2**20, "text": 16 * 2**20, "unknown token": 1024}

NOT_IN_ANY_VOCABULARY = "\U0010fffd"
REPLACEMENT_CHARACTER = "\ufffd"  # decoders give it for bytes that aren't UTF-8, or not yet


@contextlib.contextmanager
def convert_errors(doing: str) -> Iterator[None]:
    """Turn failures of the library in a `with` block into CheckpointError.

    Rust's panics, which aren't of the class Exception, are turned into CheckpointError too. A panic also
    prints to stderr. So stderr is closed during the block, and the user sees only one line.
    """
    with silent_stderr():
        try:
            yield
        except (KeyboardInterrupt, SystemExit, GeneratorExit, CheckpointError, LimitError):
            raise
        except BaseException as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(f"tokenizer.json {doing}: {cause:.200}") from None


def check_text(text: str) -> None:
    """Raise LimitError for a text that is too long, or that contains a lone surrogate, which UTF-8 can't
    encode.
    """
    if len(text) > LIMITS["text"]:
        raise LimitError(f"a text may have at most {LIMITS['text']} characters, but it has {len(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise LimitError(
            f"a text must be Unicode, but it has the surrogate {text[error.start]!a} as character "
            f"{error.start + 1}: decode its bytes as UTF-8"
        ) from None


def _check_subword_prefix(text: str) -> None:
    """Raise CheckpointError if the library would slice inside a character, which aborts the process.

    The library removes `continuing_subword_prefix` from the second part of each merge without checking that
    the prefix is there. A file is parsed a second time only if it has such a prefix or contains escapes,
    which may hide one.
    """
    if not re.search(r'continuing_subword_prefix"\s*:\s*"[^"]|\\u', text):
        return
    model = parse(text, "tokenizer.json")
    model = model.get("model") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(prefix := model.get("continuing_subword_prefix"), str):
        return
    merges = model.get("merges")
    for merge in merges if isinstance(merges, list) else ():
        parts = merge.split(" ") if isinstance(merge, str) else merge
        second = parts[-1] if isinstance(parts, list) and len(parts) == 2 else None
        if not isinstance(second, str) or not second.startswith(prefix):
            raise CheckpointError(
                f"tokenizer.json: the second part of the merge {merge!r:.80} must begin with "
                f"continuing_subword_prefix, {prefix!r:.40}"
            )


def _check_affixes(model: tokenizers.models.Model) -> None:
    """Raise CheckpointError if the model combines byte fallback with a prefix or suffix of tokens.

    The library could then make tokens from the bytes of the prefix or suffix, and place these tokens beyond
    the text's end.
    """
    affixes = (getattr(model, name, None) for name in ("continuing_subword_prefix", "end_of_word_suffix"))
    if getattr(model, "byte_fallback", False) and any(affixes):
        raise CheckpointError(
            "tokenizer.json: model.byte_fallback can't be combined with continuing_subword_prefix or "
            "end_of_word_suffix"
        )


class TemplatePart(NamedTuple):
    """A part of the post-processor's template: the text with the number `sequence`, or the token `id` if
    `sequence` is None."""

    sequence: int | None
    id: int
    type_id: int


class Tokenizer:
    """A tokenizer.json for a model with `vocabulary` logits.

    `text_pieces` decides which added tokens are plain text; all others are control tokens. An added token
    that occurs in the chat template or in the settings' `special_ids` is never plain text, unless it is blank
    or the unknown token.
    """

    def __init__(
        self, text: str, vocabulary: int, *, template: str = "", special_ids: Collection[int] = ()
    ) -> None:
        if len(text) > LIMITS["tokenizer.json"]:
            raise LimitError(
                f"tokenizer.json may have at most {LIMITS['tokenizer.json']} characters, but it has "
                f"{len(text)}"
            )
        self.vocabulary = vocabulary
        _check_subword_prefix(text)
        with convert_errors("can't be used"):
            self._growth = Growth(text)
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            added = self._tokenizer.get_added_tokens_decoder()
            unknown = {getattr(self._tokenizer.model, "unk_token", None)}
            if isinstance(self._tokenizer.model, tokenizers.models.Unigram):  # it doesn't state its unk_token
                tokens = self._tokenizer.model.tokenize(NOT_IN_ANY_VOCABULARY)
                unknown = {self.id_to_token(token.id) for token in tokens}
            # The prefix of tokens that continue a word; empty where the model has none.
            prefix = getattr(self._tokenizer.model, "continuing_subword_prefix", None)
            self.continuing_subword_prefix: str = prefix or ""
            _check_affixes(self._tokenizer.model)
            self.unknown_ids = {self._tokenizer.token_to_id(token) for token in unknown if token}
            decoder = self._tokenizer.decoder and json.loads(self._tokenizer.decoder.__getstate__())
            check_decoder(decoder)
            # Whether decoding removes spaces around punctuation, which may be several tokens.
            self.cleans_up = cleans_up(decoder)
            self._growth.check("")
            used = {*special_ids, *self._tokenizer.encode("").ids}
        if (longest := max(map(len, filter(None, unknown)), default=0)) > LIMITS["unknown token"]:
            most = LIMITS["unknown token"]
            raise LimitError(
                f"tokenizer.json: the unknown token may have at most {most} characters, but it has {longest}"
            )
        unused = {
            token.content
            for id, token in added.items()
            if not token.special and id not in used and token.content not in template
        }
        ordinary = text_pieces([token.content for token in added.values()], unused) | unknown
        self.control_tokens: dict[str, int] = {
            token.content: id for id, token in added.items() if token.content not in ordinary
        }
        self._control_ids = frozenset(self.control_tokens.values())
        self._special_ids = frozenset(id for id, token in added.items() if token.special)

    def to_json(self) -> str:
        """Return the tokenizer as the text of a tokenizer.json.

        Each call makes the text again. The text isn't kept in memory, because it is rarely needed and takes
        for example 4.5 MB for SmolLM2.
        """
        with convert_errors("can't be written"):
            return self._tokenizer.to_str()

    def token_to_id(self, token: str) -> int | None:
        """Return the id of a token; None if there is no such token."""
        return self._tokenizer.token_to_id(token)

    def id_to_token(self, id: int | None) -> str:
        """Return the token of an id. The result is empty for None and for an id without a token."""
        return "" if id is None else self._tokenizer.id_to_token(id) or ""

    def get_vocab(self) -> dict[str, int]:
        """Return all tokens with their ids, added tokens included."""
        return self._tokenizer.get_vocab()

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Return the ids of a user's text. No part of the text becomes a control token.

        `add_special_tokens` adds the post-processor's tokens around the text, often a begin token.
        """
        if add_special_tokens:
            return self.encode_with_offsets(text).ids
        return self._encode(text, None).ids

    def encode_with_offsets(
        self, text: str, pair: str | None = None, *, control_token: str | None = None
    ) -> Encoding:
        """Return the encoding of a user's text or of a pair of texts, with the post-processor's tokens.

        In the texts, only the name `control_token` becomes a control token. The names of all other control
        tokens are read as plain text.
        """
        texts = [self._encode(text, control_token)]
        if pair is not None:
            texts.append(self._encode(pair, control_token))
        encoding = Encoding.empty()
        for part in self._single_template if pair is None else self._pair_template:
            if part.sequence is None:
                encoding.extend(Encoding([part.id], [(0, 0)], [None], [part.type_id], [None]))
            else:
                encoding.extend(texts[part.sequence].with_source(part.sequence, part.type_id))
        return encoding

    def with_special_tokens(self, ids: Sequence[int]) -> list[int]:
        """Return the ids of a text, or of a part of a text, with the post-processor's tokens around them."""
        result: list[int] = []
        for part in self._single_template:
            result += [part.id] if part.sequence is None else ids
        return result

    @property
    def before_text(self) -> list[int]:
        """The tokens that the post-processor puts before a text."""
        parts = itertools.takewhile(lambda part: part.sequence is None, self._single_template)
        return [part.id for part in parts]

    def _encode(self, text: str, control_token: str | None) -> Encoding:
        """Return the encoding of one text, without the post-processor's tokens.

        If the library would make control tokens of the text, the tokenizer with secret spellings encodes the
        text instead.
        """
        check_text(text)
        with convert_errors("can't encode"):
            self._growth.check(text)
            encoded = self._tokenizer.encode(text, add_special_tokens=False)
            encoding = Encoding.of_text(encoded.ids, encoded.offsets, encoded.word_ids, 0, 0)
        allowed = {self.control_tokens.get(control_token or "")}
        if (self._control_ids - allowed).intersection(encoding.ids):
            parts = [text] if not control_token else re.split(f"({re.escape(control_token)})", text)
            encoding = self._secret_spelling.encode([(part, part == control_token) for part in parts])
        self._check_ids(encoding.ids)
        return encoding

    def has_control_tokens(self, text: str) -> bool:
        """Return whether the text would have a control token if it were encoded like a template's text."""
        return bool(self._control_ids.intersection(self.encode_template(text)))

    def encode_template(self, text: str) -> list[int]:
        """Return the ids of a template's own text, in which names of control tokens become control tokens."""
        check_text(text)
        with convert_errors("can't encode"):
            self._growth.check(text)
            return self._check_ids(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_parts(self, parts: Sequence[tuple[str, bool]]) -> list[int]:
        """Return the ids of the joined parts. A part is a pair: a text, and whether names of control tokens
        in the text become control tokens.
        """
        whole = "".join(text for text, _ in parts)
        check_text(whole)
        with convert_errors("can't encode"):
            self._growth.check(whole)
        return self._check_ids(self._secret_spelling.encode(parts).ids)

    def decode(self, ids: Sequence[int], shown: Collection[int] = ()) -> str:
        """Return the text of ids. Special tokens are left out, except the tokens in `shown`."""
        if shown:
            ids = [id for id in ids if id in shown or id not in self._special_ids]
        with convert_errors("can't decode"):
            return self._tokenizer.decode(list(ids), skip_special_tokens=not shown)

    @cached_property
    def _single_template(self) -> list[TemplatePart]:
        return self._template(1)

    @cached_property
    def _pair_template(self) -> list[TemplatePart]:
        return self._template(2)

    def _template(self, count: int) -> list[TemplatePart]:
        """Return the post-processor's template for one text or for two (`count`), found by encoding a sample
        text.
        """
        with convert_errors("can't encode"):
            probe = ""
            for candidate in ("a", *self.get_vocab()):
                self._growth.check(candidate)
                if self._tokenizer.encode(candidate, add_special_tokens=False).ids:
                    probe = candidate
                    break
            pair = probe if count == 2 else None
            encoded = self._tokenizer.encode(probe, pair, add_special_tokens=True)
            tokens = zip(encoded.sequence_ids, encoded.ids, encoded.type_ids, strict=True)
        parts: list[TemplatePart] = []
        for sequence, id, type_id in tokens:
            if sequence is None:
                parts.append(TemplatePart(None, id, type_id))
            elif (part := TemplatePart(sequence, 0, type_id)) not in parts[-1:]:
                parts.append(part)
        if [part.sequence for part in parts if part.sequence is not None] != [*range(count)]:
            raise CheckpointError(
                "tokenizer.json: post_processor must contain each text once, whole and in order"
            )
        self._check_ids([part.id for part in parts])
        return parts

    @cached_property
    def _secret_spelling(self) -> SecretSpelling:
        return SecretSpelling(self.to_json(), self.control_tokens, convert_errors)

    def _check_ids(self, ids: list[int]) -> list[int]:
        if ids and max(ids) >= self.vocabulary:
            raise CheckpointError(
                f"tokenizer.json: token ids must be below the model's vocabulary {self.vocabulary}, got "
                f"{max(ids)}"
            )
        return ids


def read_tokenizer(source: ModelSource, config: Config) -> Tokenizer | None:
    """Return the tokenizer of a bundle or checkpoint; None if it has no tokenizer."""
    text = source.tokenizer  # a bundle reads its file for it
    if text is None:
        return None
    template = f"{source.chat_template or ''}\n{source.tool_use_template or ''}"
    ids = source.generation.special_ids
    return Tokenizer(text, config.embedding.vocabulary, template=template, special_ids=ids)


class DecodeStream:
    """Turns token ids into text as soon as the text is certain; incomplete UTF-8 is held back.

    The joined chunks equal the text of all ids decoded at once. A chunk is the difference between two
    decodings. Both decodings begin with the previous chunk's tokens, since a decoder may treat the first
    token differently. If the decoder cleans up text, all tokens are decoded each time, and characters that
    may still change are held back. Special tokens in `shown` become part of the text.
    """

    def __init__(self, tokenizer: Tokenizer, shown: Collection[int] = ()) -> None:
        self._tokenizer, self._shown = tokenizer, shown
        self._ids: list[int] = []
        self._previous_start = 0  # first token of the previous chunk
        self._previous_end = 0  # first token after it
        self._previous_text = ""  # the previous chunk's tokens decoded alone

    def push(self, id: int) -> str:
        """Add a token, and return the new text that later tokens can no longer change."""
        self._ids.append(id)
        text = self._tokenizer.decode(self._ids[self._previous_start :], self._shown)
        if self._tokenizer.cleans_up:
            text = text[: max(len(text) - UNSETTLED, 0)]
        return "" if text.endswith(REPLACEMENT_CHARACTER) else self._emit(text)

    def finish(self) -> str:
        """Return the text that was still held back. Call this after the last token."""
        return self._emit(self._tokenizer.decode(self._ids[self._previous_start :], self._shown))

    def _emit(self, text: str) -> str:
        chunk = text[len(self._previous_text) :]
        if chunk and self._tokenizer.cleans_up:
            self._previous_text = text
        elif chunk:
            self._previous_start = self._previous_end
            self._previous_end = len(self._ids)
            self._previous_text = self._tokenizer.decode(self._ids[self._previous_start :], self._shown)
        return chunk

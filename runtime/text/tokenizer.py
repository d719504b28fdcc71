"""Text to ids and back, by the `tokenizers` library kept at arm's length.

Text of a user never becomes a control token. Control tokens are the added tokens of tokenizer.json,
flagged special or not, except those of white space alone, which ordinary text is made of, and the
unknown token. The library panics on some malformed files; here every failure is a CheckpointError.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import tokenizers
import tokenizers.models

from ...refimpl.errors import CheckpointError, LimitError
from ...refimpl.formats.strict_json import parse
from ..hardware import trim
from .control_tokens import Encoding, Respelled

LIMITS = {"tokenizer.json": 64 * 2**20, "text": 16 * 2**20}

NOWHERE = "\U0010fffd"  # a character that no vocabulary holds
UNDECODED = "\ufffd"  # what a decoder gives for bytes that aren't UTF-8, or not yet


@contextlib.contextmanager
def guarded(doing: str) -> Iterator[None]:
    """Failures of the library as CheckpointError, a Rust panic included, which is no Exception.

    A panic also prints itself; stderr is away meanwhile, so that the error is one line.
    """
    with _no_stderr():
        try:
            yield
        except (KeyboardInterrupt, SystemExit, GeneratorExit, CheckpointError, LimitError):
            raise
        except BaseException as error:
            cause = " ".join(str(error).split()) or type(error).__name__
            raise CheckpointError(f"tokenizer.json {doing}: {cause:.200}") from None


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    try:
        kept = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _check_prefix(text: str) -> None:
    """Raise CheckpointError where the library would cut inside a character, which aborts the process.

    It cuts `continuing_subword_prefix` off the second part of each merge without looking whether it
    is there. Only a file that has one, or that may hide one behind escapes, is parsed a second time.
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
                f"tokenizer.json: the second part of merge {merge!r:.80} must begin with {prefix!r:.40}"
            )


class Place(NamedTuple):
    """Where a text stands among what is put around it, or, where `text` is None, a token of that."""

    text: int | None
    id: int
    type: int


class Tokenizer:
    """A tokenizer.json for a model of `vocabulary` logits."""

    def __init__(self, text: str, vocabulary: int) -> None:
        if len(text) > LIMITS["tokenizer.json"]:
            raise LimitError(
                f"tokenizer.json may have {LIMITS['tokenizer.json']} characters, it has {len(text)}"
            )
        self._text, self.vocabulary = text, vocabulary
        _check_prefix(text)
        with guarded("can't be used"):
            self._whole = tokenizers.Tokenizer.from_str(text)
            self._whole.no_padding()
            self._whole.no_truncation()
            added = self._whole.get_added_tokens_decoder()
            unknown = {getattr(self._whole.model, "unk_token", None)}
            if isinstance(self._whole.model, tokenizers.models.Unigram):  # it doesn't say
                unknown = {self.token(t.id) for t in self._whole.model.tokenize(NOWHERE)}
            # What a piece begins with that goes on with a word; empty where nothing tells.
            self.continuing: str = getattr(self._whole.model, "continuing_subword_prefix", None) or ""
            self.unknown = {self._whole.token_to_id(token) for token in unknown if token}
        trim()  # reading left twice the memory that the tokenizer keeps
        self.control: dict[str, int] = {
            token.content: number
            for number, token in added.items()
            if token.content.strip() and token.content not in unknown
        }

        self._forbidden = frozenset(self.control.values())

    def id(self, token: str) -> int | None:
        """The id of a token by its name."""
        return self._whole.token_to_id(token)

    def token(self, number: int | None) -> str:
        """The name of a token by its id; empty for none."""
        return "" if number is None else self._whole.id_to_token(number) or ""

    def tokens(self) -> dict[str, int]:
        """All tokens with their ids, added ones too."""
        return self._whole.get_vocab()

    def encode(self, text: str, *, start: bool = False) -> list[int]:
        """Ids of a user's text: nothing in it is a control token. `start` adds what the model expects
        around a text (as a rule the begin token)."""
        return self.read(text).ids if start else self._tokens(text, None).ids

    def read(self, text: str, pair: str | None = None, *, meant: str | None = None) -> Encoding:
        """A user's text, or a pair of them, with what the model expects around them.

        Nothing in a text is a control token but the one that `meant` names.
        """
        texts = [self._tokens(t, meant) for t in (text, pair) if t is not None]
        made = Encoding([], [], [], [], [])
        for place in self._single if pair is None else self._pair:
            if place.text is None:
                made.extend(Encoding([place.id], [(0, 0)], [None], [place.type], [None]))
            else:
                made.extend(texts[place.text].of(place.text, place.type))
        return made

    def around(self, ids: Sequence[int]) -> list[int]:
        """Ids of a text, or of a part of one, with what the model expects around a text."""
        return [one for place in self._single for one in ([place.id] if place.text is None else ids)]

    def _tokens(self, text: str, meant: str | None) -> Encoding:
        """A text alone: what the library says of it, or, where that holds control tokens, its respelling."""
        self._check_length(text)
        with guarded("can't encode"):
            made = self._whole.encode(text, add_special_tokens=False)
            found = Encoding.made(made.ids, made.offsets, made.word_ids)
        allowed = {self.control.get(meant or "")}
        if (self._forbidden - allowed).intersection(found.ids):
            parts = [text] if not meant else re.split(f"({re.escape(meant)})", text)
            found = self._spelled.encode([(part, part == meant) for part in parts])
        self._checked(found.ids)
        return found

    def holds_control(self, text: str) -> bool:
        """True if the text, taken as a template's, would hold a control token."""
        return bool(self._forbidden.intersection(self.encode_template(text)))

    def encode_template(self, text: str) -> list[int]:
        """Ids of a text whose control tokens are meant: a template's own."""
        self._check_length(text)
        with guarded("can't encode"):
            return self._checked(self._whole.encode(text, add_special_tokens=False).ids)

    def encode_marked(self, pieces: Sequence[tuple[str, bool]]) -> list[int]:
        """Ids of joined pieces (text, meant): control tokens are read only where they are meant."""
        self._check_length("".join(text for text, _ in pieces))
        return self._checked(self._spelled.encode(pieces).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; special tokens are left out."""
        with guarded("can't decode"):
            return self._whole.decode(list(ids), skip_special_tokens=True)

    @cached_property
    def _single(self) -> list[Place]:
        return self._places(1)

    @cached_property
    def _pair(self) -> list[Place]:
        return self._places(2)

    def _places(self, count: int) -> list[Place]:
        """What the post-processor makes of one text or two: its own tokens, and where the texts stand."""
        with guarded("can't encode"):
            some = (t for t in ("a", *self.tokens()) if self._whole.encode(t, add_special_tokens=False).ids)
            probe = next(some, "")
            made = self._whole.encode(probe, probe if count == 2 else None, add_special_tokens=True)
            found = zip(made.sequence_ids, made.ids, made.type_ids, strict=True)
        places: list[Place] = []
        for text, number, kind in found:
            place = Place(None, number, kind) if text is None else Place(text, 0, kind)
            if text is None or place not in places[-1:]:
                places.append(place)
        if [p.text for p in places if p.text is not None] != [*range(count)]:
            raise CheckpointError("tokenizer.json: the post-processor must keep the texts whole and in order")
        self._checked([place.id for place in places])
        return places

    @cached_property
    def _spelled(self) -> Respelled:
        return Respelled(self._text, self.control, guarded)

    def _checked(self, ids: list[int]) -> list[int]:
        if ids and max(ids) >= self.vocabulary:
            raise CheckpointError(
                f"tokenizer.json: ids must be below the model's vocabulary {self.vocabulary}, got {max(ids)}"
            )
        return ids

    def _check_length(self, text: str) -> None:
        if len(text) > LIMITS["text"]:
            raise LimitError(f"a text may have {LIMITS['text']} characters, this one has {len(text)}")


class Stream:
    """Ids in, text out as soon as it is certain: incomplete UTF-8 is held back.

    The joined pieces are what decoding all ids at once gives. A piece is the difference of two
    decodings that begin a little earlier, since a decoder may treat its first token apart.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = self._read = 0  # tokens of the last piece, then those not yet given out
        self._given = ""  # what decoding the last piece alone gives

    def push(self, number: int) -> str:
        """The text that this token makes certain."""
        self._ids.append(number)
        text = self._tokenizer.decode(self._ids[self._context :])
        return "" if text.endswith(UNDECODED) else self._give(text)

    def finish(self) -> str:
        """What was held back."""
        return self._give(self._tokenizer.decode(self._ids[self._context :]))

    def _give(self, text: str) -> str:
        piece = text[len(self._given) :]
        if piece:
            self._context, self._read = self._read, len(self._ids)
            self._given = self._tokenizer.decode(self._ids[self._context :])
        return piece

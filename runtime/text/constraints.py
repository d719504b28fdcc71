"""Constrain generated text to the documents of a JSON schema, a regular expression or a grammar.

At each step, the library llguidance (the extra [serve]) says which tokens may follow, in a child process. A
feature that the library doesn't support raises an error and is never ignored. A language for which it would
need too much time or memory raises an error too.

- A JSON document may have a blank after a comma or a colon, and no other white space. If any amount of white
  space were allowed, a model could write white space forever.
- A regular expression, of Rust's syntax, matches the whole text.
- A grammar is llama.cpp's GBNF, which begins at `root`, or Lark's, which begins at `start`. A terminal of a
  Lark grammar takes the longest match, so some sentences of an ambiguous grammar are never generated.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any, Literal, NamedTuple

import numpy as np

from ...refimpl.errors import ArgumentError, CheckpointError, LimitError
from .chat_template import common_prefix
from .language_follower import COMPLETE, FAILED, STEP
from .language_process import LIMITS, Connection, EndedError, LanguageProcess, Limits
from .tokenizer import Tokenizer, convert_errors

LONGEST_TEXT = 2**15  # characters of a regular expression or a grammar
KEPT = 16  # languages whose grammars are kept
JsonSchema = Mapping[str, Any]


Kind = Literal["json_schema", "regex", "grammar", "tools"]


class Language(NamedTuple):
    """A formal language: its kind, which is the name of the option, and its definition as text.

    The text of a schema is JSON. The text of `tools` is a grammar of `runtime.text.call_grammar`, in which
    `@text` stands for the `inner` language.
    """

    kind: Kind
    text: str
    inner: tuple[Kind, str] | None = None


def of_schema(schema: JsonSchema) -> Language:
    """Return the language of all JSON documents that match a schema. Raises ArgumentError if the schema isn't
    JSON.
    """
    try:
        return Language("json_schema", json.dumps(schema, allow_nan=False))
    except (ValueError, TypeError, RecursionError) as error:
        raise _refused("json_schema", str(error)) from None


def check(language: Language) -> None:
    """Raise ArgumentError for a language that the library doesn't fully support. The check needs no
    tokenizer.
    """
    _compiled(LanguageProcess(), language)


def _compiled(process: LanguageProcess, language: Language) -> Connection:
    kind, text, inner = language
    if inner is not None:
        _compiled(process, Language(*inner))  # an error in it is its own
    if kind in ("regex", "grammar") and len(text) > LONGEST_TEXT:
        raise ArgumentError(f"{kind} may have at most {LONGEST_TEXT} characters, but it has {len(text)}")
    try:
        return process.compiled(*language)
    except EndedError as error:
        limits = process.limits
        most = f"compiling takes more than {limits.compile_s:g} s or {limits.memory // 2**20} MB of memory"
        raise _refused(kind, str(error) or most) from None
    except (ValueError, UnicodeError) as error:
        reason = str(error)
        raise _refused(kind, "no text matches" if reason.startswith("NoExtension") else reason) from None


def _refused(kind: str, reason: str) -> ArgumentError:
    if kind == "regex" and (stated := re.search("^error: (.*)", reason, re.MULTILINE)):
        reason = stated[1]  # without the expression itself
    return ArgumentError(f"{kind} can't be followed: {_in_line(reason):.300}")


def _in_line(reason: str) -> str:
    return " ".join(reason.removesuffix("<non-verbose/>").split())


class Constraints:
    """The constraints of texts for one tokenizer. Raises CheckpointError for a tokenizer that the library
    can't read.
    """

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int], limits: Limits = LIMITS) -> None:
        if not stop_ids:
            raise CheckpointError(
                "json_schema, regex and grammar need a model with a stop token, but this model has none"
            )
        if tokenizer.cleans_up:
            raise CheckpointError(
                "json_schema, regex and grammar can't be used with this model, because its tokenizer "
                "removes spaces from decoded texts"
            )
        self._vocabulary = tokenizer.vocabulary
        with convert_errors("can't be used with json_schema, regex or grammar"):
            try:
                process = LanguageProcess(tokenizer.to_json(), self._vocabulary, stop_ids, limits)
            except ModuleNotFoundError as error:
                need = f"json_schema, regex and grammar need {error.name}: pip install 'tfm-cli[serve]'"
                raise CheckpointError(need) from None
        self._compiled = lru_cache(KEPT)(partial(_compiled, process))

    def constraint(self, language: Language) -> ConstrainedText:
        """Return a constraint that makes one text follow this language."""
        return ConstrainedText(language.kind, self._compiled(language), self._vocabulary)


class ConstrainedText:
    """A `refimpl.decoding.constraint.Constraint` that makes a text follow a language."""

    def __init__(self, kind: str, language: Connection, vocabulary: int) -> None:
        self._kind, self._language, self._vocabulary = kind, language, vocabulary
        self._read: list[int] = []
        self._complete: dict[int, bool] = {}  # of so many of the tokens that are read
        self._mask: bytes | None = None  # of what may follow them; None before it is taken from the process

    def allowed(self, tokens: Sequence[int]) -> np.ndarray:
        self._follow(tokens)
        if self._mask is None:
            self._mask = self._answer(self._process.answer)
        bits = np.frombuffer(self._mask, np.uint8, offset=1)
        return np.unpackbits(bits, count=self._vocabulary, bitorder="little").view(np.bool_)

    def is_complete(self, tokens: Sequence[int]) -> bool:
        if common_prefix(self._read, tokens) < len(tokens) or len(tokens) not in self._complete:
            self._follow(tokens)
        return self._complete[len(tokens)]

    @cached_property
    def _process(self) -> Connection:
        """The process of this text. The process is forked only at the text's first step, since a text may
        wait long for its turn.
        """
        return self._language.copy()

    def _follow(self, tokens: Sequence[int]) -> None:
        """Move the process to the end of these tokens, and let it compute which tokens may follow."""
        same, read = common_prefix(self._read, tokens), len(self._read)
        if same == len(tokens) == read and read in self._complete:
            return
        if self._complete and self._mask is None:
            self._answer(self._process.answer)  # the mask of an end that nobody asked for
        new = tokens[same:]
        request = STEP.pack(read - same, len(new)) + struct.pack(f"={len(new)}I", *new)
        state = self._answer(partial(self._process.ask, request))
        self._read, self._mask = [*tokens], None
        for size in range(same + 1, read + 1):
            self._complete.pop(size, None)
        self._complete[len(tokens)] = state == COMPLETE

    def _answer(self, ask: Callable[[], bytes]) -> bytes:
        """Return the process's answer. Raises LimitError if the process reports a failure or doesn't
        answer.
        """
        try:
            answer = ask()
        except EndedError as error:
            raise self._too_complex(str(error) or "a step takes too long, or too much memory") from None
        if answer[:1] == FAILED:
            raise self._too_complex(answer[1:].decode())
        return answer

    def _too_complex(self, reason: str) -> LimitError:
        return LimitError(f"{self._kind} is too complex for this text: {_in_line(reason):.200}")

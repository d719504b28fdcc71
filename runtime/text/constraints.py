"""Texts of a language: documents of a JSON schema, matches of a regular expression, sentences of a grammar.

The library llguidance (the extra [serve]) says at each step which tokens may follow, in a child process. What
it doesn't implement is an error, never ignored, and so is what would take it too much time or memory.

- In a JSON document there may be a blank after a comma or a colon, and no other white space: where any may
  be, a model can write nothing else.
- A regular expression, of Rust's syntax, matches the whole text.
- A grammar is llama.cpp's GBNF, which begins at `root`, or Lark's, which begins at `start`. A token of Lark's
  takes the longest match, so some sentences of an ambiguous grammar are never written.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
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
    """A language by its kind, which is the name of the option, and its text: a schema's is JSON, that of
    `tools` a grammar of `runtime.text.call_grammar`, in which `@text` is of the `inner` language."""

    kind: Kind
    text: str
    inner: tuple[Kind, str] | None = None


def of_schema(schema: JsonSchema) -> Language:
    """The language of a schema's documents."""
    try:
        return Language("json_schema", json.dumps(schema, allow_nan=False))
    except (ValueError, TypeError, RecursionError) as error:
        raise _refused("json_schema", str(error)) from None


def check(language: Language) -> None:
    """ArgumentError for a language that the library can't follow in full, whatever the tokenizer is."""
    _compiled(LanguageProcess(), language)


def _compiled(process: LanguageProcess, language: Language) -> Connection:
    kind, text, inner = language
    if inner is not None:
        _compiled(process, Language(*inner))  # an error in it is its own
    if kind in ("regex", "grammar") and len(text) > LONGEST_TEXT:
        raise ArgumentError(f"{kind} may have {LONGEST_TEXT} characters, it has {len(text)}")
    try:
        return process.compiled(*language)
    except EndedError as error:
        limits = process.limits
        most = f"it takes more than {limits.compile_s:g} s or {limits.memory // 2**20} MB of memory"
        raise _refused(kind, str(error) or most) from None
    except (ValueError, UnicodeError) as error:
        reason = str(error)
        raise _refused(kind, "it matches no text" if reason.startswith("NoExtension") else reason) from None


def _refused(kind: str, reason: str) -> ArgumentError:
    if kind == "regex" and (stated := re.search("^error: (.*)", reason, re.MULTILINE)):
        reason = stated[1]  # without the expression itself
    return ArgumentError(f"{kind} can't be followed: {_in_line(reason):.300}")


def _in_line(reason: str) -> str:
    return " ".join(reason.removesuffix("<non-verbose/>").split())


class Constraints:
    """The constraints of a model's tokenizer; CheckpointError for one that the library can't read."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int], limits: Limits = LIMITS) -> None:
        if not stop_ids:
            raise CheckpointError("a constrained text ends with a stop token, and the model names none")
        if tokenizer.cleans_up:
            raise CheckpointError("the tokenizer cleans its texts up, which may change a constrained one")
        self._vocabulary = tokenizer.vocabulary
        with convert_errors("can't constrain a text"):
            try:
                process = LanguageProcess(tokenizer.to_json(), self._vocabulary, stop_ids, limits)
            except ModuleNotFoundError as error:
                need = f"a constrained text needs {error.name}: pip install 'tfm-cli[serve]'"
                raise CheckpointError(need) from None
        self._compiled = lru_cache(KEPT)(partial(_compiled, process))

    def constraint(self, language: Language) -> ConstrainedText:
        """The constraint of one text."""
        return ConstrainedText(language.kind, self._compiled(language), self._vocabulary)


class ConstrainedText:
    """A `refimpl.decoding.constraint.Constraint`: the text is one of a language."""

    def __init__(self, kind: str, language: Connection, vocabulary: int) -> None:
        self._kind, self._language, self._vocabulary = kind, language, vocabulary
        self._read: list[int] = []
        self._complete = False

    def allowed(self, tokens: Sequence[int]) -> np.ndarray:
        mask = np.frombuffer(self._step(tokens, masked=True), np.uint8)
        return np.unpackbits(mask, count=self._vocabulary, bitorder="little").view(np.bool_)

    def is_complete(self, tokens: Sequence[int]) -> bool:
        self._step(tokens, masked=False)
        return self._complete

    @cached_property
    def _process(self) -> Connection:
        """The text's own process, which begins with its first step: a text may wait long for its turn."""
        return self._language.copy()

    def _step(self, tokens: Sequence[int], *, masked: bool) -> bytes:
        """Bring the process to the end of these tokens; the mask of what may follow, where asked for."""
        same = common_prefix(self._read, tokens)
        new = tokens[same:]
        head = STEP.pack(len(self._read) - same, len(new), masked)
        try:
            answer = self._process.ask(head + struct.pack(f"={len(new)}I", *new))
        except EndedError as error:
            raise self._too_complex(str(error) or "a step takes too long, or too much memory") from None
        if answer[:1] == FAILED:
            raise self._too_complex(answer[1:].decode())
        self._read, self._complete = [*tokens], answer[:1] == COMPLETE
        return answer[1:]

    def _too_complex(self, reason: str) -> LimitError:
        return LimitError(f"{self._kind} is too complex for this text: {_in_line(reason):.200}")

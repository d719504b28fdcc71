"""Texts of a language: documents of a JSON schema, matches of a regular expression, sentences of a grammar.

The library llguidance (the extra [serve]) says at each step which tokens may follow. What it doesn't
implement is an error, never ignored, and so is what would take it too much memory.

- Between two tokens of a JSON document there may be up to LONGEST_SPACE characters of white space: where any
  number may, a model can write nothing else.
- A regular expression, of Rust's syntax, matches the whole text.
- A grammar is llama.cpp's GBNF, which begins at `root`, or Lark's, which begins at `start`. A token of Lark's
  takes the longest match, so some sentences of an ambiguous grammar are never written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ...refimpl.errors import ArgumentError, CheckpointError, LimitError
from .chat_template import common_prefix
from .tokenizer import Tokenizer, convert_errors

if TYPE_CHECKING:
    import llguidance

LONGEST_SPACE = 20
LONGEST_TEXT = 2**15  # characters of a regular expression or a grammar
KEPT = 16  # languages whose grammars are kept
# A fifth of the library's own: `(a{1000}){1000}` ends in an error after 40 MB, not 250.
FUEL = 200_000
JsonSchema = Mapping[str, Any]


class Language(NamedTuple):
    """A language by its kind, which is the name of the option, and its text: a schema's is JSON."""

    kind: Literal["json_schema", "regex", "grammar"]
    text: str


def of_schema(schema: JsonSchema) -> Language:
    """The language of a schema's documents."""
    try:
        return Language("json_schema", json.dumps(schema, allow_nan=False))
    except (ValueError, TypeError, RecursionError) as error:
        raise _refused("json_schema", str(error)) from None


def grammar_of(language: Language) -> str:
    """The library's grammar of a language; ArgumentError for one that it can't follow in full."""
    import llguidance

    kind, text = language
    if kind != "json_schema" and len(text) > LONGEST_TEXT:
        raise ArgumentError(f"{kind} may have {LONGEST_TEXT} characters, it has {len(text)}")
    try:
        if kind == "json_schema":
            grammar = _of_schema(text)
        else:
            grammar = llguidance.grammar_from(kind, text)
        failed, messages = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
    except (ValueError, TypeError, RecursionError) as error:
        raise _refused(kind, str(error)) from None
    # A grammar's warning is of a token by its number or name: no text has one.
    if failed or (messages and kind != "json_schema"):
        raise _refused(kind, messages[0])
    return grammar


def _of_schema(text: str) -> str:
    import llguidance

    # Last, since a schema may have options of its own: with `lenient` keywords would be ignored.
    options: Any = {
        "lenient": False,
        "coerce_one_of": False,
        "whitespace_flexible": True,
        "whitespace_pattern": rf"[\x20\x0A\x0D\x09]{{1,{LONGEST_SPACE}}}",
    }
    return llguidance.LLMatcher.grammar_from_json_schema(text, overrides=options)


def _refused(kind: str, reason: str) -> ArgumentError:
    if kind == "regex" and (stated := re.search("^error: (.*)", reason, re.MULTILINE)):
        reason = stated[1]  # without the expression itself
    return ArgumentError(f"{kind} can't be followed: {_in_line(reason):.300}")


def _in_line(reason: str) -> str:
    return " ".join(reason.removesuffix("<non-verbose/>").split())


class Constraints:
    """The constraints of a model's tokenizer; CheckpointError for one that the library can't read."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> None:
        import llguidance

        if not stop_ids:
            raise CheckpointError("a constrained text ends with a stop token, and the model names none")
        if tokenizer.cleans_up:
            raise CheckpointError("the tokenizer cleans its texts up, which may change a constrained one")
        self._vocabulary = tokenizer.vocabulary
        with convert_errors("can't constrain a text"):
            self._tokenizer = llguidance.LLTokenizer(
                tokenizer.to_json(), n_vocab=self._vocabulary, eos_token=list(stop_ids)
            )
        self._limits = llguidance.LLParserLimits(initial_lexer_fuel=FUEL, verbose_errors=False)
        self._matcher = lru_cache(KEPT)(self._compiled)

    def constraint(self, language: Language) -> ConstrainedText:
        """The constraint of one text."""
        matcher = self._matcher(language).deep_copy()
        return ConstrainedText(language.kind, matcher, self._vocabulary)

    def _compiled(self, language: Language) -> llguidance.LLMatcher:
        import llguidance

        matcher = llguidance.LLMatcher(
            self._tokenizer, grammar_of(language), log_level=0, limits=self._limits
        )
        if not matcher.is_error():
            matcher.compute_logit_bias()  # finds what matches nothing
        if matcher.is_error():
            reason = matcher.get_error()
            empty = reason.startswith("NoExtension")
            raise _refused(language.kind, "it matches no text" if empty else reason)
        return matcher


class ConstrainedText:
    """A `refimpl.decoding.constraint.Constraint`: the text is one of a language."""

    def __init__(self, kind: str, matcher: llguidance.LLMatcher, vocabulary: int) -> None:
        from llguidance.numpy import allocate_token_bitmask

        self._kind, self._matcher, self._vocabulary = kind, matcher, vocabulary
        self._read: list[int] = []
        self._mask = allocate_token_bitmask(1, vocabulary)

    def allowed(self, tokens: Sequence[int]) -> np.ndarray:
        from llguidance.numpy import fill_next_token_bitmask

        self._read_to(tokens)
        # In this thread: another would take its time from the model's.
        fill_next_token_bitmask(self._matcher, self._mask)
        self._check()
        bits = np.unpackbits(self._mask.view(np.uint8)[0], count=self._vocabulary, bitorder="little")
        return bits.view(np.bool_)

    def is_complete(self, tokens: Sequence[int]) -> bool:
        self._read_to(tokens)
        return self._matcher.is_stopped()

    def _read_to(self, tokens: Sequence[int]) -> None:
        """Bring the matcher to the end of these tokens."""
        same = common_prefix(self._read, tokens)
        if same < len(self._read):
            self._matcher.rollback(len(self._read) - same)
        if same < len(tokens):
            self._matcher.consume_tokens(list(tokens[same:]))
        self._read = list(tokens)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = _in_line(self._matcher.get_error())
            raise LimitError(f"{self._kind} is too complex for this text: {reason:.200}")

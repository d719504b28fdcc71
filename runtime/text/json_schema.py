"""Texts that are JSON documents of a schema, by the library llguidance (the extra [serve]).

The library turns a schema into a grammar and says at each step which tokens may follow. A keyword that it
doesn't implement is an error, never ignored. Between two tokens of a document there may be up to
LONGEST_SPACE characters of white space: where any number may, a model can write nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ...refimpl.errors import ArgumentError, CheckpointError, LimitError
from .tokenizer import Tokenizer, convert_errors

if TYPE_CHECKING:
    import llguidance

LONGEST_SPACE = 20
KEPT = 16  # schemas whose grammars are kept
JsonSchema = Mapping[str, Any]


def grammar_of(schema: JsonSchema) -> str:
    """The grammar of a schema's documents; ArgumentError for one that the library can't follow in full."""
    import llguidance

    # Last, since a schema may have options of its own: with `lenient` keywords would be ignored.
    options: Any = {
        "lenient": False,
        "coerce_one_of": False,
        "whitespace_flexible": True,
        "whitespace_pattern": rf"[\x20\x0A\x0D\x09]{{1,{LONGEST_SPACE}}}",
    }
    try:
        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            json.dumps(schema, allow_nan=False), overrides=options
        )
        failed, messages = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
    except (ValueError, TypeError, RecursionError) as error:
        raise _refused(str(error)) from None
    if failed:
        raise _refused(messages[0])
    return grammar


def _refused(reason: str) -> ArgumentError:
    return ArgumentError(f"json_schema can't be followed: {' '.join(reason.split())[:300]}")


class JsonSchemas:
    """The constraints of a model's tokenizer; CheckpointError for one that the library can't read."""

    def __init__(self, tokenizer: Tokenizer, stop_ids: Sequence[int]) -> None:
        import llguidance

        if not stop_ids:
            raise CheckpointError("a text of a json_schema ends with a stop token, and the model names none")
        if tokenizer.cleans_up:
            raise CheckpointError("the tokenizer cleans its texts up, which may change a JSON document")
        with convert_errors("can't constrain a text"):
            self._tokenizer = llguidance.LLTokenizer(
                tokenizer.json, n_vocab=tokenizer.vocabulary, eos_token=list(stop_ids)
            )
        self._matcher = lru_cache(KEPT)(self._compiled)

    def constraint(self, schema: JsonSchema) -> JsonDocument:
        """The constraint of one text."""
        return JsonDocument(self._matcher(json.dumps(schema, allow_nan=False)).deep_copy())

    def _compiled(self, schema: str) -> llguidance.LLMatcher:
        import llguidance

        matcher = llguidance.LLMatcher(self._tokenizer, grammar_of(json.loads(schema)), log_level=0)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        return matcher


class JsonDocument:
    """A `refimpl.decoding.constraint.Constraint`: the text is a document of a schema."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher
        self._read: list[int] = []

    def allowed(self, tokens: Sequence[int]) -> np.ndarray:
        self._read_to(tokens)
        mask = np.frombuffer(self._matcher.compute_logit_bias(), np.uint8) > 0
        self._check()
        return mask

    def is_complete(self, tokens: Sequence[int]) -> bool:
        self._read_to(tokens)
        return self._matcher.is_stopped()

    def _read_to(self, tokens: Sequence[int]) -> None:
        """Bring the matcher to the end of these tokens."""
        pairs = zip(self._read, tokens, strict=False)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(self._read), len(tokens)))
        if same < len(self._read):
            self._matcher.rollback(len(self._read) - same)
        if same < len(tokens):
            self._matcher.consume_tokens(list(tokens[same:]))
        self._read = list(tokens)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())
            raise LimitError(f"json_schema is too complex for this text: {reason:.200}")

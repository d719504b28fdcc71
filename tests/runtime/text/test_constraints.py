"""Constrained texts: whatever the logits say, a complete one is of its language."""

from __future__ import annotations

import ast
import json
import re
from copy import copy
from typing import Any

import jsonschema
import numpy as np
import pytest
import tokenizers
from helpers import text_strategies
from helpers.refused import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from reports import schemas
from tfm.refimpl.decoding.loop import GeneratedSequence
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.errors import ArgumentError, CheckpointError, LimitError
from tfm.runtime.text.constraints import (
    LONGEST_TEXT,
    Constraints,
    Language,
    check,
    of_schema,
)
from tfm.runtime.text.tokenizer import Tokenizer


def constraints(library: tokenizers.Tokenizer, more: int = 3) -> tuple[Tokenizer, Constraints, int]:
    """A tokenizer whose model has more logits than it has tokens, its constraints, and its stop token."""
    stop = library.get_vocab()["<|im_end|>"]
    tokenizer = Tokenizer(library.to_str(), library.get_vocab_size() + more)
    return tokenizer, Constraints(tokenizer, [stop]), stop


MADE = {
    "bytes": constraints(text_strategies.byte_level()),
    "pieces": constraints(text_strategies.sentencepiece()),
}
NAMES = st.text('abcé"\\ ', min_size=1, max_size=4)
NUMBERS = st.integers(-20, 20)
LEAVES = st.one_of(
    st.fixed_dictionaries({"type": st.sampled_from(["boolean", "null", "integer", "number"])}),
    st.tuples(NUMBERS, st.integers(0, 9)).map(
        lambda pair: {"type": "integer", "minimum": pair[0], "maximum": pair[0] + pair[1]}
    ),
    st.integers(0, 5).map(lambda n: {"type": "string", "minLength": n // 2, "maxLength": n}),
    st.sampled_from(["^a+b?$", "^[0-9]{2,3}$", "^(x|yz)$"]).map(lambda p: {"type": "string", "pattern": p}),
    st.sampled_from(["date", "uuid", "ipv4"]).map(lambda form: {"type": "string", "format": form}),
    st.lists(st.one_of(NAMES, NUMBERS, st.booleans(), st.none()), min_size=1, max_size=4).map(
        lambda values: {"enum": values}
    ),
    st.one_of(NAMES, NUMBERS).map(lambda value: {"const": value}),
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def of_object(properties: dict[str, Any], count: int, closed: bool) -> dict[str, Any]:
        names = list(properties)[:count]
        return {
            "type": "object",
            "properties": properties,
            "required": names,
            "additionalProperties": not closed,
        }

    def of_array(items: Any, least: int, room: int) -> dict[str, Any]:
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + room}

    return st.one_of(
        st.builds(
            of_object,
            st.dictionaries(NAMES, inner, max_size=3),
            st.integers(0, 3),
            st.sampled_from([True] * 4 + [False]),
        ),
        st.builds(of_array, inner, st.integers(0, 2), st.integers(0, 2)),
        st.lists(inner, min_size=1, max_size=3).map(lambda some: {"anyOf": some}),
        st.tuples(inner, inner).map(
            lambda pair: {"type": "array", "prefixItems": list(pair), "items": False, "minItems": 2}
        ),
    )


SCHEMAS = st.recursive(LEAVES, containers, max_leaves=5)


def written(kind: str, language: Any, seed: int, room: int = 200, **options: Any) -> tuple[str, str | None]:
    """A text from random logits: (the text, why it ended)."""
    tokenizer, made, stop = MADE[kind]
    sequence = GeneratedSequence(
        [1],
        Sampler(temperature=1.0),
        frozenset([stop]),
        room,
        seed,
        constraint=made.constraint(language),
        **options,
    )
    rng = np.random.default_rng(seed)
    while sequence.finish_reason is None:
        sequence.sample(rng.normal(0, 3, tokenizer.vocabulary).astype(np.float32))
    return tokenizer.decode(sequence.tokens), sequence.finish_reason


ENDED = {"stop": 0, "length": 0}


@settings(max_examples=60)
@given(SCHEMAS, st.sampled_from(sorted(MADE)), st.integers(0, 2**31))
def test_a_complete_text_is_a_document_of_its_schema(schema: Any, kind: str, seed: int) -> None:
    text, reason = written(kind, of_schema(schema), seed)
    ENDED[reason] += 1
    if reason == "stop":
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())


@pytest.mark.long
def test_documents_of_drawn_schemas_are_valid() -> None:
    """No keyword is refused but those whose meaning no grammar has. `reports.schemas` judges a thousand."""
    found = schemas.check(250)
    assert found.invalid == []
    assert not found.too_complex
    rare = {"uniqueItems", "contains", "not", "if, then", "propertyNames", "dependentRequired"}
    others = [why for why in found.refused if why not in rare and not why.startswith(("min/max", "oneOf"))]
    assert others == []
    assert found.refused.total() <= schemas.REFUSED * found.drawn
    assert found.valid > 0.85 * found.drawn
    assert len(found.keywords) > 30


def test_any_json_and_any_object() -> None:
    reasons = []
    for kind in MADE:
        for seed in range(5):
            for schema, types in (({}, object), ({"type": "object"}, dict)):
                text, reason = written(kind, of_schema(schema), seed, room=400)
                reasons.append(reason)
                if reason == "stop":
                    assert isinstance(json.loads(text), types)
    assert "stop" in reasons


REGEXES = (
    r"[a-c]{2,5}",
    r"(cat|dog)s?( and (cat|dog)s?)*",
    r"[0-9]{4}-[01][0-9]-[0-3][0-9]",
    r"^-?(0|[1-9][0-9]{0,5})(\.[0-9]+)?$",
    r"[^a-z\n]{1,6}",
    r"é+x?|日本",
    r"(a|b)*abb",
    r"",
)


@given(st.sampled_from(REGEXES), st.sampled_from(sorted(MADE)), st.integers(0, 2**31))
def test_a_complete_text_matches_its_regular_expression(regex: str, kind: str, seed: int) -> None:
    """As Python matches it."""
    text, reason = written(kind, Language("regex", regex), seed, room=60)
    ENDED[reason] += 1
    if reason == "stop":
        assert re.fullmatch(regex, text), text


# Sums in parentheses, in both forms: GBNF's rules and Lark's.
GRAMMARS = (
    'root ::= term (("+" | " - ") term)* # a sum\nterm ::= [1-9] [0-9]? | "(" root ")"\n',
    'start: term (("+" | " - ") term)*\nterm: NUMBER | "(" start ")"\nNUMBER: /[1-9][0-9]?/\n',
)


@settings(max_examples=50)
@given(st.sampled_from(GRAMMARS), st.sampled_from(sorted(MADE)), st.integers(0, 2**31))
def test_a_complete_text_is_a_sentence_of_its_grammar(grammar: str, kind: str, seed: int) -> None:
    """As Python's parser reads it."""
    text, reason = written(kind, Language("grammar", grammar), seed, room=80)
    ENDED[reason] += 1
    if reason == "stop":
        assert set(text) <= set("0123456789+-() ")
        for node in ast.walk(ast.parse(text, mode="eval")):
            assert isinstance(node, ast.Expression | ast.BinOp | ast.Add | ast.Sub | ast.Constant), text


def test_most_texts_are_complete() -> None:
    """The tests before have judged them."""
    assert ENDED["stop"] > ENDED["length"]


@pytest.mark.parametrize(
    ("language", "reason"),
    [
        (Language("regex", "("), "unclosed group"),
        (Language("regex", "(?=a)b"), "look-around"),
        (Language("regex", r"(a)\1"), "backreferences are not supported"),
        (Language("regex", "\ud800"), "surrogates"),
        (Language("regex", "(" * 9999 + ")" * 9999), "nest"),
        (Language("grammar", ""), "No 'root' rule found"),
        (Language("grammar", "root ::= item"), "Rule 'item' not found"),
        (Language("grammar", "root ::= " + "(" * 9999), "recursion"),
        (Language("grammar", "start: item"), "unknown name"),
        (Language("grammar", "start: " + "(" * 9999), "too deeply nested"),
        (Language("grammar", "%import /etc/passwd\nstart: INT"), "Expected name"),
        (Language("grammar", 'start: %json {"not": {}}'), 'Unimplemented keys: ["not"]'),
        # A control token would end the text, or be none of it.
        (Language("grammar", "start: <|im_end|>"), "special_token"),
        (Language("grammar", "start: <[1-5]>"), "<[...]>"),
    ],
)
def test_a_wrong_expression_or_grammar_is_refused(language: Language, reason: str) -> None:
    with refused(ArgumentError, language.kind) as caught:
        check(language)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_takes_too_much_is_refused() -> None:
    _, made, _ = MADE["bytes"]
    for kind in ("regex", "grammar"):
        with refused(ArgumentError, kind, LONGEST_TEXT, "characters"):
            check(Language(kind, "a" * (LONGEST_TEXT + 1)))
    for empty in (Language("regex", r"[^\s\S]"), Language("grammar", "root ::= root")):
        with refused(ArgumentError, "matches"):
            made.constraint(empty)
    with refused(LimitError, "regex", "complex"):
        written("bytes", Language("regex", "(a{1000}){1000}"), 1)
    expensive = "start: A\nA: /.*a.{200}/ & /.*b.{300}/ & ~/.*c.{100}/"
    with refused(ArgumentError, "fuel"):
        made.constraint(Language("grammar", expensive))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        ({"type": "array", "uniqueItems": True}, 'Unimplemented keys: ["uniqueItems"]'),
        ({"properties": {"a": {"if": True, "then": True}}}, 'Unimplemented keys: ["if", "then"]'),
        ({"not": {}, "x-guidance": {"lenient": True}}, 'Unimplemented keys: ["not"]'),
        ({"oneOf": [{"type": "string"}, {"maxLength": 2}], "x-guidance": {"coerce_one_of": True}}, "oneOf"),
        ({"type": "string", "format": "tea"}, "Unknown format: tea"),
        ({"type": "strong"}, "Invalid type: strong"),
        ({"$ref": "http://example.org/schema"}, "does not fetch"),
        ({"$ref": "file:///etc/passwd"}, "does not fetch"),
        ({"type": "string", "pattern": "("}, "regex parse error"),
        ({"enum": []}, "Unsatisfiable"),
        ({"a": float("nan")}, "not JSON compliant"),
    ],
)
def test_what_cannot_be_followed_is_named(schema: Any, reason: str) -> None:
    with refused(ArgumentError, "json_schema") as caught:
        check(of_schema(schema))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tokens_can_be_taken_back() -> None:
    """After any tokens the answer is that of a constraint which reads them for the first time."""
    _, made, _ = MADE["bytes"]
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "integer"}}}}
    texts: list[list[int]] = [[]]
    rng = np.random.default_rng(3)
    while len(texts) < 40:
        tokens = texts[-1]
        if made.constraint(of_schema(schema)).is_complete(tokens):
            break
        texts.append(
            [*tokens, int(rng.choice(np.flatnonzero(made.constraint(of_schema(schema)).allowed(tokens))))]
        )
    one = made.constraint(of_schema(schema))
    for i in [*range(len(texts)), *rng.integers(0, len(texts), 60).tolist()]:
        assert np.array_equal(one.allowed(texts[i]), made.constraint(of_schema(schema)).allowed(texts[i]))
        assert one.is_complete(texts[i]) == made.constraint(of_schema(schema)).is_complete(texts[i])


def test_a_mask_that_nobody_asked_for_is_not_given_for_another_text() -> None:
    """Each step has its mask, and only some are taken; of tokens that are taken back nothing is left."""
    tokenizer, made, _ = MADE["bytes"]
    language = Language("regex", "(ab|f[gh]){9}|(cde){12}")
    texts = [tokenizer.encode(text) for text in ("abfgabfhfgab", "ab" * 9, "cde" * 12)]
    short, long = texts[1:]
    one, rng = made.constraint(language), np.random.default_rng(3)
    for _ in range(60):
        text = texts[rng.integers(len(texts))]
        tokens, fresh = text[: rng.choice([3, 7, len(short), 40])], made.constraint(language)
        assert one.is_complete(tokens) == fresh.is_complete(tokens)
        if rng.random() < 0.5:
            np.testing.assert_array_equal(one.allowed(tokens), fresh.allowed(tokens))
    assert one.is_complete(short)
    assert one.is_complete(long)
    assert not one.is_complete(long[: len(short)])


def test_there_is_a_blank_after_a_comma_or_a_colon_and_no_other() -> None:
    tokenizer, made, _ = MADE["bytes"]
    one = made.constraint(of_schema({"type": "object"}))
    space, newline = (tokenizer.encode(blank)[0] for blank in " \n")
    for text, blank in (("{", 0), ('{"a"', 0), ('{"a":', 1), ('{"a": ', 0), ('{"a":1,', 1), ('{"a":[', 0)):
        allowed = one.allowed(tokenizer.encode(text))
        assert (allowed[space], allowed[newline]) == (blank, 0), text


def test_models_that_cannot_be_constrained() -> None:
    tokenizer = MADE["bytes"][0]
    with refused(CheckpointError, "none"):
        Constraints(tokenizer, [])
    for library in (text_strategies.wordpiece(), text_strategies.unigram()):
        with refused(CheckpointError, "json_schema", "decoder"):
            Constraints(Tokenizer(library.to_str(), library.get_vocab_size()), [1])
    cleaning = copy(tokenizer)
    cleaning.cleans_up = True
    with refused(CheckpointError, "removes", "spaces"):
        Constraints(cleaning, [1])


def test_bans_that_leave_nothing_are_an_error() -> None:
    tokenizer, made, stop = MADE["bytes"]
    brace = [i for i in range(tokenizer.vocabulary) if "{" in tokenizer.id_to_token(i)]
    constraint = made.constraint(of_schema({"type": "object"}))
    sampler = Sampler(suppress_tokens=tuple(brace))
    sequence = GeneratedSequence([1], sampler, frozenset([stop]), constraint=constraint)
    with refused(LimitError, "token", "suppress"):
        sequence.sample(np.zeros(tokenizer.vocabulary, np.float32))


def test_a_document_that_is_complete_at_the_limit_was_not_cut() -> None:
    """Nothing can follow it, so it ends without a stop token."""
    tokenizer = MADE["bytes"][0]
    for seed in range(5):
        text, _ = written("bytes", of_schema({"const": True}), seed, room=99)
        for room in (1, 2, 3, 4):
            same, reason = written("bytes", of_schema({"const": True}), seed, room=room)
            assert reason == ("stop" if same == text else "length"), tokenizer.encode(text)

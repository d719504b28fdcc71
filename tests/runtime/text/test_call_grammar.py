"""Grammars of answers: what a format writes is a sentence, and each sentence's calls are of their schemas."""

from __future__ import annotations

import contextlib
import json
import random
import re
from collections.abc import Iterable
from typing import Any

import jsonschema
import llguidance
import numpy as np
import pytest
from helpers import drawn_schemas, text_strategies
from helpers.drawn_answers import SENTENCES, mutant
from helpers.refused import refused
from tfm.refimpl.errors import ArgumentError
from tfm.runtime.text.call_formats import BY_NAME, CallFormat
from tfm.runtime.text.call_grammar import Asked, grammar_of_answer
from tfm.runtime.text.call_parser import read_answer
from tfm.runtime.text.call_writer import write_answer
from tfm.runtime.text.constraints import Language, check
from tokenizers import AddedToken, Tokenizer

# What could be a token in a mark.
TOKEN = re.compile(r"<\|?[^<>\s\"={}]*\|?>|<\|\"\|>|\[[A-Z_]+\]|｜DSML｜")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "description": "a name"},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "exact": {"type": "boolean"},
        "unit": {"enum": ["C", "deg F"]},
        "rows": {"type": "array", "items": {"$ref": "#/$defs/row"}},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
    "$defs": {"row": {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]}},
}
FULL = {"city": "Oslo", "days": 2, "exact": True, "unit": "deg F", "rows": [{"a": 1.5}], "note": None}
LEAST = {"city": "x", "days": 1}
WRONG: list[dict[str, Any]] = [
    {"city": 3, "days": "two"}, {"days": 99, "city": "Oslo"}, {"city": "Rome", "days": 1, "more": [1]},
    {**FULL, "unit": "K", "rows": [{"b": 1}]}, {},
]  # fmt: skip
FUNCTIONS = {"weather": SCHEMA, "ping": {"type": "object"}}
SOME = [("weather", SCHEMA), ("ping", None)]


def tokenizer_of(form: CallFormat, *, special: bool) -> tuple[Tokenizer, dict[str, int], int]:
    """A tokenizer, the tokens that marks have in it, and its stop token."""
    tokenizer = text_strategies.byte_level()
    if special:
        marks = json.dumps(write_answer(form, "a", "b", [("c", {"d": "e"})]), ensure_ascii=False)
        found = {*TOKEN.findall(json.loads(marks))} - {"<tool_call>"}
        found = {one for one in found if not any(other in one for other in found - {one})}
        tokenizer.add_special_tokens(
            [AddedToken(one, special=True, normalized=False) for one in sorted(found)]
        )
    vocabulary = tokenizer.get_vocab()
    added = {token.content: id for id, token in tokenizer.get_added_tokens_decoder().items()}
    return tokenizer, form.tokens_of(added), vocabulary["<|im_end|>"]


class Walker:
    """Sentences of one format's grammar."""

    def __init__(self, form: CallFormat, asked: Asked, *, special: bool) -> None:
        self.form = form
        self.tokenizer, tokens, self.stop = tokenizer_of(form, special=special)
        grammar = grammar_of_answer(form, asked, tokens, frozenset({self.stop}))
        self._grammar = llguidance.grammar_from("grammar", grammar)
        width = self.tokenizer.get_vocab_size()
        self._library = llguidance.LLTokenizer(self.tokenizer.to_str(), n_vocab=width, eos_token=[self.stop])

    def matcher(self) -> Any:
        made = llguidance.LLMatcher(self._library, self._grammar, log_level=0)
        assert not made.is_error(), made.get_error()
        return made

    def takes(self, text: str) -> bool:
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        matcher = self.matcher()
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    def sentence(self, rng: random.Random, wish: str, most: int) -> tuple[str, bool]:
        """What comes of a text where only some tokens may follow, and whether it is whole."""
        wished = [*self.tokenizer.encode(wish, add_special_tokens=False).ids, self.stop]
        matcher, made, at = self.matcher(), [], 0
        while len(made) < most and not matcher.is_stopped():
            mask = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
            # Whatever of the wish may follow next, else anything.
            at = next((i for i in range(at, len(wished)) if mask[wished[i]]), at)
            token = wished[at] if mask[wished[at]] else int(rng.choice(np.flatnonzero(mask)))
            at = min(at + (token == wished[at]), len(wished) - 1)
            if token == self.stop:
                return self.tokenizer.decode(made, skip_special_tokens=False), True
            assert matcher.consume_token(token)
            made.append(token)
        return self.tokenizer.decode(made, skip_special_tokens=False), matcher.is_stopped()


ANSWERS: list[tuple[Asked, list[tuple[str, str, list[tuple[str, Any]]]]]] = [
    (
        Asked(SOME, must_call=True),
        [
            ("", "", [("weather", FULL)]),
            ("hm", "", [("weather", LEAST)]),
            ("", "", [("weather", LEAST), ("weather", FULL), ("ping", {})]),
        ],
    ),
    (
        Asked(SOME),
        [
            ("", "", [("weather", FULL)]),
            ("", "a {cat}", []),
            ("hm", "a cat", []),
            ("", "a cat", [("weather", FULL), ("ping", {"x": 1})]),
            ("hm", "a cat", [("weather", FULL)]),
        ],
    ),
    (
        Asked(SOME, document=SCHEMA),
        [("", "", [("weather", FULL)]), ("", json.dumps(LEAST), []), ("hm", json.dumps(LEAST), [])],
    ),
]  # fmt: skip


@pytest.mark.parametrize("name", BY_NAME)
def test_what_a_format_writes_is_a_sentence(name: str) -> None:
    form = BY_NAME[name]
    for special in (False, True):
        for asked, answers in ANSWERS:
            walker = Walker(form, asked, special=special)
            for thoughts, text, calls in answers:
                if (thoughts and form.thoughts is None) or (text and calls and "" in form.begin):
                    continue
                assert walker.takes(write_answer(form, thoughts, text, calls)), (
                    special,
                    thoughts,
                    text,
                    calls,
                )
            bad = write_answer(form, "", "", [("weather", {"city": "Oslo", "days": 99})])
            assert not walker.takes(bad)
            assert not walker.takes(write_answer(form, "", "", [("other", LEAST)]))
        one = Walker(form, Asked(SOME, must_call=True, several=False), special=special)
        assert one.takes(write_answer(form, "", "", [("weather", LEAST)]))
        assert not one.takes(write_answer(form, "", "", [("weather", LEAST), ("weather", LEAST)]))
        assert not one.takes("a cat")


def check_sentences(name: str, seeds: Iterable[int]) -> int:
    """Whatever a model would rather write, its calls are of their schemas; how many calls there were."""
    form, calls = BY_NAME[name], 0
    walkers: dict[tuple[bool, bool], Walker] = {}
    for seed in seeds:
        rng = random.Random(f"sentence {name} {seed}")
        key = must_call, special = rng.random() < 0.5, rng.random() < 0.5
        asked = Asked(SOME, must_call=must_call)
        walker = walkers.setdefault(key, walkers.get(key) or Walker(form, asked, special=special))
        wrong = [("weather", rng.choice([*WRONG, FULL])), ("ping", rng.choice(WRONG))]
        thoughts, text = rng.choice([("", ""), ("hm", ""), ("", "a cat"), ("hm", "a cat")])
        written = write_answer(form, thoughts, text, wrong[: rng.choice([1, 2])])
        text, whole = walker.sentence(rng, mutant(rng, written), 300)
        answer = read_answer(text, form, FUNCTIONS, cut=not whole)
        for call in answer.calls:
            jsonschema.validate(json.loads(call.arguments), FUNCTIONS[call.name])
        assert not whole or answer.calls or not asked.must_call, text
        calls += len(answer.calls)
    return calls


@pytest.mark.parametrize("name", BY_NAME)
def test_calls_of_a_sentence_are_of_their_schemas(name: str) -> None:
    assert check_sentences(name, range(SENTENCES))


def test_a_text_can_not_have_the_mark_that_ends_it_spelled() -> None:
    walker = Walker(BY_NAME["qwen3-coder"], Asked(SOME), special=True)
    plain = text_strategies.byte_level()
    head, end = "<tool_call>\n<function=weather>\n<parameter=city>\nx", "\n</parameter>"
    for spelled, whole in (("y</para>", True), ("</parameter>y", False)):
        ids = walker.tokenizer.encode(head, add_special_tokens=False).ids
        ids += plain.encode(spelled, add_special_tokens=False).ids
        ids += walker.tokenizer.encode(end, add_special_tokens=False).ids
        assert (walker.matcher().try_consume_tokens(ids) == len(ids)) == whole, spelled


@pytest.mark.parametrize("name", BY_NAME)
def test_a_text_is_without_marks(name: str) -> None:
    """A mark begins calls or thoughts, spelled too: what isn't one of these whole isn't a text either."""
    form = BY_NAME[name]
    texts = [f"a cat {mark} sat" for mark in form.begin if mark]
    texts += [f" {form.opening.strip() or '{'}a cat"] if "" in form.begin else []
    texts += [f" {form.thoughts.begin}a cat"] if form.thoughts and not form.thoughts.anywhere else []
    for asked in (Asked(SOME), Asked()):
        walker = Walker(form, asked, special=False)
        for text in ("a cat sat", *texts):
            ids = [id for sign in text for id in walker.tokenizer.encode(sign, add_special_tokens=False).ids]
            matcher = walker.matcher()
            taken = matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
            assert taken == (text not in texts), text


JUNK: list[Any] = [None, 5, "a", [], [5], {}, True, {"type": "string"}, {"$ref": "#/$defs/a"}]


def junk(rng: random.Random, part: Any) -> Any:
    """A schema in which something is anything."""
    if rng.random() < 0.1 or not isinstance(part, dict | list) or not part:
        return rng.choice(JUNK) if rng.random() < 0.5 else part
    keys = [*part] if isinstance(part, dict) else range(len(part))
    made = part.copy()
    key = rng.choice([*keys])
    made[key] = junk(rng, part[key])
    return made


@pytest.mark.parametrize("name", ["hermes", "qwen3-coder", "deepseek-v3.2", "gemma-4", "lfm2"])
def test_any_schema_is_followed_or_refused(name: str) -> None:
    """With arguments of any schema a call is of it, or the schema is an error; none is too much work."""
    followed = 0
    for seed in range(60):
        rng = random.Random(f"schema {name} {seed}")
        parts = {key: drawn_schemas.schema(rng) for key in "abc"}
        schema: Any = {
            "type": "object",
            "properties": parts,
            "required": ["a"],
            "additionalProperties": False,
        }
        schema["$defs"] = {
            key: value for part in parts.values() for key, value in part.get("$defs", {}).items()
        }
        schema = schema if seed % 2 else junk(rng, schema)
        if not isinstance(schema, dict):
            continue
        asked = Asked([("f", schema)], must_call=True)
        try:
            grammar = grammar_of_answer(BY_NAME[name], asked, {})
            if seed < 6:
                check(Language("tools", grammar))
            followed += 1
        except ArgumentError:
            continue
    assert followed


def test_references_in_circles_come_to_an_end() -> None:
    circle = {"anyOf": [{"$ref": f"#/$defs/{key}"} for key in "abcdefgh"]}
    schema = {"type": "object", "properties": {"x": circle}, "$defs": dict.fromkeys("abcdefgh", circle)}
    for name in ("qwen3-coder", "gemma-4", "lfm2"):
        with contextlib.suppress(ArgumentError):
            grammar_of_answer(BY_NAME[name], Asked([("f", schema)]), {})
    parts = {f"k{i}": {"type": "integer", "minimum": i} for i in range(1500)}
    large = {"type": "object", "properties": parts, "$defs": parts}
    with refused(ArgumentError, "characters"):
        grammar_of_answer(BY_NAME["qwen3-coder"], Asked([("f", large)]), {})


REFUSED = {
    "a pattern": {"type": "string", "pattern": "a+"},
    "a text or a bounded number": {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 3}]},
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_schema_that_is_not_followed_is_an_error(case: str) -> None:
    """Where arguments aren't JSON; in JSON it is followed."""
    schema = {"type": "object", "properties": {"a": REFUSED[case]}, "required": ["a"]}
    asked = Asked([("f", schema)])
    for name in ("glm-4.7", "qwen3-coder", "deepseek-v3.2"):
        with refused(ArgumentError, "f:"):
            grammar_of_answer(BY_NAME[name], asked, {})
    for name in ("hermes", "lfm2"):
        check(Language("tools", grammar_of_answer(BY_NAME[name], asked, {})))
    loose = Asked([("f", schema)], loose={"f"})
    check(Language("tools", grammar_of_answer(BY_NAME["glm-4.7"], loose, {})))
    for more in (
        {"minProperties": 1}, {"required": ["b"]}, {"additionalProperties": {"type": "null"}},
        {"properties": {"a</arg_key><arg_value>": {}}}, {"properties": {"a": {"enum": ["</arg_value>"]}}},
    ):  # fmt: skip
        with pytest.raises(ArgumentError):
            grammar_of_answer(BY_NAME["glm-4.7"], Asked([("f", {"type": "object", **more})]), {})

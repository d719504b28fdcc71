"""Patterns of module names: they match what Python's `re` matches, in bounded work."""

from __future__ import annotations

import re
import time

import pytest
from helpers.refused import refused
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.formats.adapters.name_patterns import LENGTH, NamePattern, Work
from tfm.refimpl.errors import ConfigError, LimitError

ATOMS = [
    "a", "b", ".", r"\.", r"\d", r"\w", r"\b", "[ab]", "[^.]", "[0-9a]", "a-b", "^", "$", "[a-]", r"[\d.]",
    "[]a]", "[]-a]",
]  # fmt: skip
PATTERNS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "{2}", "{1,}", "{0,2}"])).map(
            lambda pair: f"(?:{pair[0]}){pair[1]}"
        ),
    ),
    max_leaves=8,
)
NAMES = st.text("ab.-09_", min_size=1, max_size=10)


@given(PATTERNS, NAMES)
@settings(max_examples=100)
@example("model.layers.1.q", "model.layers-1.q")
@example("a", "b.a")
@example("^a", "b.a")
@example("a|b.a", "b.a")
def test_names_match_as_in_python(pattern: str, name: str):
    own = NamePattern(pattern, "here")
    assert own.matches(name, Work("here"), suffix=False) == (re.fullmatch(pattern, name) is not None)
    anywhere = re.match(rf"(.*\.)?({pattern})$", name) is not None
    assert own.matches(name, Work("here"), suffix=True) == anywhere


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(?=a)b", "group"),
        ("(?P<n>a)", "group"),
        (r"\Bq", "only punctuation"),
        (r"(a)\1", "only punctuation"),
        ("a**", "only one.*after"),
        ("a*+", "only one.*after"),
        ("*a", "before.*at"),
        ("a{,3}", "before.*at"),
        ("(a", "each"),
        ("a)", r"a \( before each"),
        ("[a", "another character at its end"),
        ("[b-a]", "ascending ranges"),
        ("a\\", "another character at its end"),
        ("a{5000}", "most.*1000"),
        ("a{3,2}", "ascend"),
        ("(" * 20 + ")" * 20, "groups.*most"),
        ("a" * (LENGTH + 1), "4000.*characters"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(pattern: str, words: str):
    with pytest.raises(ConfigError, match=f"here.*{words}"):
        NamePattern(pattern, "here")


def test_patterns_that_hang_python_end_soon():
    begin = time.process_time()
    for pattern in ("(a|a)*b", "(a*)*b", "((a+)+)+b", "(a|aa)+$b", ".*.*.*.*.*b", "(a?){100}a{100}b"):
        assert not NamePattern(pattern, "here").matches("a" * 200, Work("here"), suffix=True), pattern
    pattern, work = NamePattern("(a|a)*b", "here"), Work("here")

    def match_often() -> None:
        for _ in range(10_000):
            pattern.matches("a" * 200, work, suffix=False)

    with refused(LimitError, "patterns", 2000000):
        match_often()
    assert time.process_time() - begin < 10

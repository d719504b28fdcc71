"""Thoughts have at most so many tokens, in every format, and the answer follows as after their own end."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from helpers import text_strategies
from tfm.refimpl.decoding.constraint import Constraint
from tfm.runtime.text.call_formats import BY_NAME, Thoughts
from tfm.runtime.text.call_parser import AnswerParser, joined
from tfm.runtime.text.thought_budget import ThoughtBudget
from tfm.runtime.text.tokenizer import Tokenizer
from tokenizers import AddedToken

FORMS = sorted(name for name, form in BY_NAME.items() if form.thoughts is not None)
WORDS = ("the ", "cat ", "sat ", "über ", "<", "\n")


def tokenizer_of(thoughts: Thoughts, *, special: bool) -> Tokenizer:
    """With `special` the marks are tokens of their own."""
    made = text_strategies.byte_level()
    if special:
        marks = {thoughts.begin.strip(), thoughts.end.strip()}
        made.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks])
    return Tokenizer(made.to_str(), made.get_vocab_size())


def walked(budget: ThoughtBudget, parts: tuple[list[int], list[int], list[int]], rng: Any) -> list[int]:
    """What comes of thoughts, their end and an answer where only some tokens may follow. Drafts are tried
    and taken back meanwhile."""
    thoughts, end, answer = parts
    made, wished = [], [*thoughts, *end, *answer]
    while wished:
        if rng.random() < 0.3:
            budget.allowed([*made, *rng.choices(thoughts or answer, k=3)])
        allowed = budget.allowed(made)
        if allowed.all():
            made.append(wished.pop(0))
        else:
            (forced,) = np.flatnonzero(allowed)
            made.append(int(forced))
            wished = [*answer]
    return made


@pytest.mark.parametrize("name", FORMS)
def test_thoughts_have_at_most_so_many_tokens(name: str) -> None:
    form, rng = BY_NAME[name], random.Random(name)
    thoughts = form.thoughts
    assert thoughts is not None
    for special in (False, True):
        tokenizer = tokenizer_of(thoughts, special=special)
        shown = frozenset(form.tokens_of(tokenizer.control_tokens).values())
        end = tokenizer.encode_template(f"{thoughts.end}{thoughts.then}")
        answer = tokenizer.encode_template("a dog")
        for thinking in (False, True):
            begin = [] if thinking else tokenizer.encode_template(thoughts.begin.strip())
            for _ in range(8):
                said = tokenizer.encode_template("".join(rng.choices(WORDS, k=rng.randrange(12))) + "x")
                most = rng.randrange(len(said) + 3)
                while tokenizer.decode(said[:most]).endswith("\ufffd"):
                    most += 1
                budget = ThoughtBudget(most, thoughts, tokenizer, shown, thinking=thinking)
                made = [*begin, *walked_after(budget, begin, (said, end, answer), rng)]
                parser = AnswerParser(form, {}, thinking=thinking)
                found = joined([*parser.feed(tokenizer.decode(made, shown)), *parser.finish()])
                whole = tokenizer.decode(said[:most])
                # What may be the beginning of the end is taken for it.
                assert whole.strip().startswith(found.thoughts)
                left = whole[whole.index(found.thoughts) + len(found.thoughts) :]
                assert not left.strip() or thoughts.end.strip().startswith(left.strip())
                assert found.text.strip() == "a dog"


def walked_after(budget: ThoughtBudget, begin: list[int], parts: Any, rng: Any) -> list[int]:
    """As `walked`, after the mark that begins thoughts."""

    class Later:
        def allowed(self, tokens: list[int]) -> np.ndarray:
            return budget.allowed([*begin, *tokens])

    return walked(Later(), parts, rng)  # pyright: ignore[reportArgumentType]


def test_other_tokens_are_as_without_a_budget() -> None:
    """A text without thoughts, with a mark in its middle, and what another constraint says of them."""
    thoughts = Thoughts("<think>", "</think>")
    tokenizer = tokenizer_of(thoughts, special=False)

    class Even(Constraint):
        def allowed(self, tokens: Any) -> np.ndarray:
            return np.arange(tokenizer.vocabulary) % 2 == len(tokens) % 2

        def is_complete(self, tokens: Any) -> bool:
            return len(tokens) == 3

    for text in ("a dog", "a <think> a dog sat on the mat", "<thinking"):
        ids = tokenizer.encode_template(text)
        budget = ThoughtBudget(0, thoughts, tokenizer, frozenset(), Even())
        for count in range(len(ids) + 1):
            assert np.array_equal(budget.allowed(ids[:count]), Even().allowed(ids[:count]))
            assert budget.is_complete(ids[:count]) == (count == 3)
    assert not ThoughtBudget(0, thoughts, tokenizer, frozenset()).is_complete([])

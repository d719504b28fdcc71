"""Entities of a text: every aggregation as transformers' pipeline has it, with the text's own characters."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import task_models, text_strategies
from helpers.refused import refused
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import Tag
from tfm.refimpl.errors import ConfigError, LimitError
from tfm.runtime.tasks.tag import AGGREGATIONS
from transformers.pipelines.token_classification import AggregationStrategy

LABELS = ("O", "B-PER", "I-PER", "I-LOC", "THING")
WORDS = st.lists(
    st.sampled_from(["The", "cat", "catting", "is", "Dora", "é,", "不", "x'y"]), min_size=1, max_size=5
)
CONFIG = task_models.config(Tag(len(LABELS)))


@pytest.mark.parametrize(
    "tokenizer", [text_strategies.wordpiece, text_strategies.byte_level], ids=["##", "spaces"]
)
def test_entities_are_those_of_the_pipeline(tokenizer: Callable[[], Any]) -> None:
    made = tokenizer()
    oracle = task_models.Oracle(CONFIG, len(LABELS), 0)
    model = task_models.reader(oracle, LABELS, made, mask=None)
    model.text.vocabulary = 1000
    theirs = task_models.pipeline("token-classification", oracle, LABELS, made)
    strategies = {s.value: s for s in AggregationStrategy}
    assert set(strategies) == set(AGGREGATIONS)

    @given(WORDS, st.integers(0, 2**32))
    def run(words: list[str], seed: int) -> None:
        text, oracle.seed = "  ".join(words[:2]) + " ".join(["", *words[2:]]), seed
        said = [theirs.forward(next(theirs.preprocess(text, is_split_into_words=False)))]
        for name in AGGREGATIONS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that spaces are a heuristic
                wanted = theirs.postprocess(said, strategies[name])
            got = model.tag(text, aggregation=name)[0]
            key = "entity" if name == "none" else "entity_group"
            assert [(e.label, e.start, e.end) for e in got] == [
                (w[key], w["start"], w["end"]) for w in wanted
            ]
            np.testing.assert_allclose([e.score for e in got], [w["score"] for w in wanted], rtol=1e-5)
            assert all(e.text == text[e.start : e.end] for e in got)

    run()


def test_labels_outside_are_left_out() -> None:
    model = task_models.tiny_reader(Tag(len(LABELS)), LABELS)
    tokens = model.tag("the cat is catting", aggregation="none", outside=())[0]
    assert [t.text for t in tokens] == ["the", "cat", "is", "cat", "t", "ing"]
    some = tokens[0].label
    kept = model.tag("the cat is catting", aggregation="none", outside=(some,))[0]
    assert kept == [t for t in tokens if t.label != some]


@pytest.mark.parametrize("batch", [1, 2, 32])
def test_results_stand_in_the_order_of_the_texts(batch: int) -> None:
    model = task_models.tiny_reader(Tag(len(LABELS)), LABELS)
    some = ["cat", "the cat is the cat", "is", "the cat", "catting the cat is the"]
    alone = [model.tag(text, outside=())[0] for text in some]
    seen: list[tuple[str, int, int]] = []
    got = model.tag(some, outside=(), batch=batch, progress=lambda *at: seen.append(at))
    assert seen == [("reading texts", min(batch * i, 5), 5) for i in range(1, -(-5 // batch) + 1)]
    for mine, want in zip(got, alone, strict=True):
        assert [e._replace(score=0) for e in mine] == [e._replace(score=0) for e in want]
        np.testing.assert_allclose([e.score for e in mine], [e.score for e in want], rtol=1e-5)


def test_what_is_refused() -> None:
    model = task_models.tiny_reader(Tag(len(LABELS)), LABELS)
    with refused(LimitError, "text", "2", "42", "tokens", "32"):
        model.tag(["cat", "cat " * 40])
    with refused(LimitError, "aggregation", "none", "simple"):
        model.tag("cat", aggregation="all")
    with refused(LimitError, "batch", "0"):
        model.tag("cat", batch=0)
    with refused(LimitError, "text", "1", "single", "('cat',"):
        model.tag([("cat", "the cat")])
    assert model.tag(("cat", "the cat")) == model.tag(["cat", "the cat"])
    for name in ("classify", "fill", "embed", "answer", "generate"):
        with refused(ConfigError, "tag", name):
            getattr(model, name)("cat")

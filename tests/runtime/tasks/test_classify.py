"""Labels of a whole text: as transformers' pipeline scores them, by name, and of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import task_models
from helpers.refused import refused
from tfm.refimpl.config import Classify
from tfm.refimpl.errors import LimitError, NumericError

LABELS = ("bad", "so-so", "good")
TEXTS = ["the cat", "is the cat catting?", "x"]


@pytest.mark.parametrize(
    ("kind", "problem", "labels"),
    [
        ("single", "single_label_classification", LABELS),
        ("multi", "multi_label_classification", LABELS),
        ("multi", None, LABELS[:1]),
        ("regression", "regression", LABELS[:1]),
        ("regression", "regression", LABELS),
    ],
)
def test_scores_are_those_of_the_pipeline(kind: str, problem: str | None, labels: tuple[str, ...]) -> None:
    oracle = task_models.Oracle(
        task_models.config(Classify(len(labels), kind=kind)), len(labels), 1, of_tokens=False
    )
    theirs = task_models.pipeline("text-classification", oracle, labels, problem_type=problem)
    found = task_models.reader(oracle, labels).classify(TEXTS)
    for text, got in zip(TEXTS, found, strict=True):
        want = {one["label"]: one["score"] for one in theirs(text, top_k=None)}
        assert {one.label: one.score for one in got} == pytest.approx(want, rel=1e-5)
        if kind == "regression":
            assert [one.label for one in got] == list(labels)
        else:
            assert [one.score for one in got] == sorted((one.score for one in got), reverse=True)
    if kind == "single":
        assert all(sum(one.score for one in got) == pytest.approx(1, abs=1e-12) for got in found)


def test_a_pair_is_read_with_its_segments() -> None:
    model = task_models.tiny_reader(Classify(3), LABELS)
    pair, joined, swapped = (
        model.classify(asked)[0] for asked in (("the cat", "is"), "the cat is", ("is", "the cat"))
    )
    ids = np.array([[2, *model.text.encode("the cat"), 3, *model.text.encode("is"), 3]])
    logits = model.engine.predict(ids, np.array([6]), np.array([[0, 0, 0, 0, 1, 1]]))[0].astype(np.float64)
    want = np.exp(logits) / np.exp(logits).sum()
    assert {one.label: one.score for one in pair} == pytest.approx(
        dict(zip(LABELS, want, strict=True)), rel=1e-5
    )
    assert len({pair[0].score, joined[0].score, swapped[0].score}) == 3
    both = model.classify([("the cat", "is"), ("is", "the cat")])
    assert [[one.label for one in found] for found in both] == [
        [one.label for one in f] for f in (pair, swapped)
    ]
    assert [one.score for one in both[1]] == pytest.approx([one.score for one in swapped], rel=1e-5)


def test_what_is_refused() -> None:
    model = task_models.tiny_reader(Classify(3), LABELS)
    assert model.classify([]) == []
    for wrong in (("cat", "the", "is"), [("cat", None)], [3]):
        with refused(LimitError, "text", "1", "pair"):
            model.classify(wrong)
    with refused(LimitError, "text", "1", "33", "tokens", "32"):
        model.classify("cat " * 31)
    bare = task_models.WORDS.from_str(task_models.WORDS.to_str())
    bare.post_processor = None
    with refused(LimitError, "text", "1", "0", "tokens"):
        task_models.reader(model.engine, LABELS, bare).classify(" ")
    broken = task_models.Oracle(model.config, 3, 0, of_tokens=False)
    broken.row = lambda ids: np.array([0, np.nan, 1], np.float32)
    with refused(NumericError, "finite"):
        task_models.reader(broken, LABELS).classify("cat")

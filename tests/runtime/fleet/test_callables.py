"""The callables for Ray Data, called without Ray: what a batch gets, and which batches are refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import serving
from helpers.refused import refused
from helpers.task_models import tiny_reader
from tfm.refimpl import config
from tfm.refimpl.errors import ArgumentError, BundleError, ConfigError, LimitError
from tfm.runtime.fleet import Classify, Embed, Generate, Tag

TEXTS = ["the cat", "is", "the cat is", "a", "cat cat cat the"]
LABELS = ("O", "B-X", "I-X")
POOL = tiny_reader(config.Pool())
CHAT = serving.model()


def batch(texts: list[str], **columns: np.ndarray) -> dict[str, np.ndarray]:
    return {"text": np.array(texts), **columns}


def test_each_adds_what_its_method_says_and_keeps_the_other_columns():
    ids = np.arange(5) * 7
    got = Embed(POOL)(batch(TEXTS, id=ids))
    assert list(got) == ["text", "id", "embedding"]
    assert got["id"] is ids
    assert got["embedding"].dtype == np.float32
    assert np.array_equal(got["embedding"], POOL.embed(TEXTS))

    labels = tiny_reader(config.Classify(3), LABELS)
    got = Classify(labels)({"words": np.array(TEXTS, object)} | batch(["x"] * 5))["labels"]
    assert got.tolist() != [[one._asdict() for one in row] for row in labels.classify(TEXTS)]
    got = Classify(labels, column="words")({"words": np.array(TEXTS, object)})["labels"]
    assert got.tolist() == [[one._asdict() for one in row] for row in labels.classify(TEXTS)]

    tags = tiny_reader(config.Tag(3), LABELS)
    options = {"aggregation": "none", "outside": ("X",)}
    got = Tag(tags, **options)(batch(TEXTS))["entities"]
    assert got.tolist() == [[one._asdict() for one in row] for row in tags.tag(TEXTS, **options)]


def test_one_text_and_none():
    """One list of labels must not become an axis of the column."""
    labels = tiny_reader(config.Classify(3), LABELS)
    assert Classify(labels)(batch(["the cat"]))["labels"].shape == (1,)
    assert Classify(labels)(batch([]))["labels"].shape == (0,)
    assert len(Embed(POOL)(batch([]))["embedding"]) == 0


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_text_is_the_one_of_its_number_however_rows_are_batched(size: int):
    options = {"max_new_tokens": 7, "temperature": 1.3, "seed": 2}
    want = CHAT.generate_many(TEXTS, **options)
    made = Generate(CHAT, **options)
    got = [made(batch(TEXTS[i : i + size], row=np.arange(i, min(i + size, 5)))) for i in range(0, 5, size)]
    assert [text for one in got for text in one["completion"]] == [one.text for one in want]
    assert [why for one in got for why in one["finish_reason"]] == [one.finish_reason for one in want]
    assert len({one.text for one in want}) == 5


def test_text_that_is_drawn_needs_numbers():
    with refused(ArgumentError, "column", "'row'", "greedy=True"):
        Generate(CHAT)(batch(TEXTS))
    greedy = {"greedy": True, "max_new_tokens": 5}
    got = Generate(CHAT, raw=True, **greedy)(batch(TEXTS))["completion"]
    assert got.tolist() == [one.text for one in CHAT.generate_many(TEXTS, raw=True, **greedy)]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"words": np.array(["a"])}, ArgumentError, "column 'text' words"),
        (
            {"text": np.array(["a", None], object)},
            LimitError,
            "text 2 blank None",
        ),
        ({"text": np.array(["a", " \n"])}, LimitError, "text 2 blank"),
        ({"text": np.array([3.5])}, LimitError, "text 1 blank 3.5"),
        ({"text": np.array(["a", "the " * 99])}, LimitError, "text 2"),
    ],
)
def test_other_batches_are_refused(columns, error, message):
    with refused(error, *message.split()):
        Embed(POOL)(columns)


def test_other_models_are_refused(tmp_path: Path):
    with refused(ConfigError, "classify"):
        Classify(POOL)
    with pytest.raises(BundleError):
        Embed(tmp_path)


def test_they_need_no_ray():
    code = "import sys, tfm.runtime.fleet; print({'ray', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

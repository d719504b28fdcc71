"""The small form of train.py and demo.py: few steps, the same roads; every engine's answers side by side."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import architectures
import loop
import numpy as np
import positions
import pytest
import task
import torch
from demos import classify, pair, tag
from helpers.refused import pattern
from story import story
from tfm.cli.main import main
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.params.random_weights import random_weights
from tfm.refimpl.params.tree import flatten
from tfm.runtime.tasks import Model

# Demos with fewer steps, the share that is right by chance, and the least that is asked.
SMALL = {
    "classify": (replace(classify.TASK, steps=100), 1 / 3, 0.7),
    "tag": (replace(tag.TASK, steps=100), 0.0, 0.6),
}


@pytest.mark.long
@pytest.mark.parametrize("name", SMALL)
def test_every_engine_has_learned_the_task(name: str, tmp_path: Path) -> None:
    small_task, chance, least = SMALL[name]
    examples = [small_task.draw(np.random.default_rng(i)) for i in range(60)]
    path = task.learn(small_task, tmp_path, examples, seed=0)
    assert json.loads((path / "config.json").read_text())["model_type"] == "tfm"
    quants = ("fp32", "int8") if name == "tag" else ("int8",)  # an export takes seconds
    told = task.compared(small_task, path, examples, quants)
    assert list(told) == ["numpy", "torch", *(f"onnx {quant}" for quant in quants)]
    assert told["numpy"]["score"] >= least > 2 * chance, told
    assert all(told[engine] == told["numpy"] for engine in told if engine != "onnx int8"), told
    assert told["onnx int8"]["as_numpy"] >= 0.9, told


@cache
def texts() -> positions.Text:
    return positions.Text(story(np.random.default_rng(0), 2000), story(np.random.default_rng(1), 600))


@pytest.mark.parametrize("kind", [*positions.KINDS, "pair"])
def test_every_leaf_is_trained_and_a_seed_trains_the_same(kind: str) -> None:
    config = pair.config(300) if kind == "pair" else positions.config(kind, 300)
    ids = np.arange(400) % 300

    def rows(seed: int) -> Iterator[list[loop.Row]]:
        for batch in positions.batches(ids, seed):
            yield [row._replace(source=row.wanted) if kind == "pair" else row for row in batch]

    def after(seed: int) -> dict[str, np.ndarray]:
        return dict(flatten(loop.train(config, rows(seed), 2, seed=seed)))

    start = dict(flatten(random_weights(config, np.random.default_rng(3))))
    one, again, other = after(3), after(3), after(4)
    for name, leaf in one.items():
        assert np.array_equal(leaf, again[name]), name
        assert not np.array_equal(leaf, start[name]), name
        assert not np.array_equal(leaf, other[name]), name


@pytest.mark.long
def test_positions_are_read_as_far_as_they_reach(tmp_path: Path) -> None:
    text = texts()
    assert text.read.shape[1] == positions.EDGES[-1] + 1
    for kind in ("learned", "alibi"):
        decoder = positions.config(kind, text.vocabulary)
        path = positions.learn(decoder, tmp_path / kind, text, 40, seed=0)
        by_engine, why = positions.compared(path, text.read[:1])
        assert list(by_engine) == ["numpy", "torch", "onnx int8"]
        spans = 1 if kind == "learned" else len(list(pairwise(positions.EDGES)))
        assert [len(values) for values in by_engine.values()] == [spans] * 3
        assert (why is None) == (kind == "alibi")
        assert kind == "alibi" or re.search(pattern("positions", 1024), str(why))
        assert by_engine["numpy"][0] < 0.1 * text.vocabulary, by_engine
        np.testing.assert_allclose(by_engine["torch"], by_engine["numpy"], rtol=1e-5)
        np.testing.assert_allclose(by_engine["onnx int8"], by_engine["numpy"], rtol=0.03)


def test_only_complete_entities_count() -> None:
    expected = [[("PER", 0, 3), ("LOC", 5, 8)], []]
    assert tag.f1(expected, expected) == 1
    assert tag.f1([[("PER", 0, 3), ("LOC", 5, 7)], [("ORG", 0, 1)]], expected) == pytest.approx(2 / 5)
    assert tag.f1([[], []], [[], []]) == 0


def test_an_answer_is_chosen_among_the_tokens_of_its_row() -> None:
    rows = [loop.Row([5], [0, 0]), loop.Row([5, 6, 7], [1, 2])]
    chosen = loop.among_tokens(torch.zeros(2, 3, 2), rows).softmax(-1)
    torch.testing.assert_close(chosen[0], torch.tensor([[1.0, 0, 0]] * 2))
    torch.testing.assert_close(chosen[1], torch.full((2, 3), 1 / 3))


def test_keys_begin_as_queries_in_the_first_layer_alone() -> None:
    config, ids = positions.config("none", 300), np.arange(400) % 300
    rows = positions.batches(ids, 0)
    leaves = dict(flatten(loop.train(config, rows, 2, seed=0, rate=1e-9, alike=True)))
    for layer, alike in ((0, True), (1, False)):
        queries, keys = (leaves[f"decoder.layers.{layer}.attn.w{part}"] for part in "qk")
        assert np.allclose(queries, keys, atol=1e-6) == alike


def test_a_mark_before_a_text_is_no_part_of_the_entity_that_begins_it() -> None:
    text = task.opened(tag.tokenizer([]))
    example = task.Example("Ada lives in Rome.", [("PER", 0, 3), ("LOC", 13, 17)])
    told = [tag.LABELS[label] for label in tag.TASK.row(text, example).wanted]
    assert told == ["O", "B-PER", "O", "O", "B-LOC", "O", "O"]


@pytest.mark.parametrize(
    "kind", ["lstm", *(pytest.param(k, marks=pytest.mark.long) for k in architectures.KINDS if k != "lstm")]
)
def test_every_architecture_generates_through_a_bundle(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained for a few steps, exported and verified by the command line; its text is the specification's."""
    text, prompt = texts(), "ada is in"
    path = positions.learn(architectures.config(kind, text.vocabulary), tmp_path / kind, text, 3, seed=0)
    checkpoint = open_checkpoint(path)
    params = materialize(checkpoint.params)
    start = dict(flatten(random_weights(checkpoint.config, np.random.default_rng(0))))
    assert not [name for name, leaf in flatten(params) if np.array_equal(leaf, start[name])]
    bundle = str(tmp_path / "bundle")
    with patch.dict(os.environ):  # commands set variables for their libraries
        assert main(["export", str(path), bundle, "--quant", "fp32"]) == 0
        capsys.readouterr()
        assert main(["generate", prompt, "--model", bundle, "--greedy", "--max-new-tokens", "12"]) == 0
    model = Model(NumpyEngine(checkpoint.config, params), checkpoint)
    specified = "".join(model.generate(prompt, greedy=True, max_new_tokens=12))
    assert capsys.readouterr().out.removesuffix("\n") == specified

"""An encoder's graph with other runtimes' ports computes the specification, however its rows are padded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from helpers import tiny_models
from helpers.exported import exported
from helpers.refused import refused
from helpers.within_budget import assert_within_budget
from tfm.export.layouts import encoder_graph, hub_files
from tfm.refimpl.config import Classify, Encoder, Pool, QuestionAnswering, Rope, Tag
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ExportError
from tfm.runtime.bundle import targets
from tfm.runtime.bundle.bundle import open_bundle

ROWS = ([5, 17, 3, 88, 41], [9, 2], [60, 33, 7])
TYPES = ([0, 0, 1, 1, 1], [1, 0], [0, 1, 1])
MASKS = {
    "right": ([1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]),
    "left": ([1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]),
    "between": ([1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [1, 0, 1, 0, 1]),
}


def rotary(head: Any) -> Encoder:
    """An encoder with token types and rotary positions."""
    config = tiny_models.encoder(head=head, positions=None)
    layers = tuple(
        replace(layer, attention=replace(layer.attention, position=Rope(100.0, 8)))
        for layer in config.stack.layers
    )
    return replace(config, stack=replace(config.stack, layers=layers))


def session(config: Encoder, folder: Path) -> ort.InferenceSession:
    encoder_graph.write(exported(folder, config, seed=4), folder / "model.onnx", data="weights")
    return ort.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(Pool("mean", unit=True), id="pool"),
        pytest.param(Tag(5), id="tag", marks=pytest.mark.long),
    ],
)
def test_rows_may_be_padded_on_any_side(head: Any, tmp_path: Path):
    config = rotary(head)
    weights, graph = tiny_models.weights(config, seed=4), session(config, tmp_path)
    assert [port.name for port in graph.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
    assert graph.get_inputs()[0].shape == ["batch_size", "sequence_length"]
    for mask in map(np.array, MASKS.values()):
        ids, types = np.full(mask.shape, 96), np.ones_like(mask)
        ids[mask == 1], types[mask == 1] = np.concatenate(ROWS), np.concatenate(TYPES)
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        names = [port.name for port in graph.get_outputs()]
        given = {name: np.asarray(array) for name, array in zip(names, graph.run(None, feeds), strict=True)}
        for row, (tokens, of_tokens) in enumerate(zip(ROWS, TYPES, strict=True)):
            arguments = np.array([tokens]), np.array([len(tokens)]), np.array([of_tokens])

            def predicted(leaves: Any, arguments: Any = arguments) -> np.ndarray:
                return NumpyEngine(config, leaves).predict(*arguments)[0]

            def states(leaves: Any, arguments: Any = arguments) -> np.ndarray:
                return np.asarray(NumpyEngine(config, leaves)._encoded(*arguments)[0])[0]

            real = mask[row] == 1
            if isinstance(head, Pool):
                assert names == ["last_hidden_state", "sentence_embedding"]
                assert_within_budget(given["sentence_embedding"][row], weights, predicted)
                assert_within_budget(given["last_hidden_state"][row, real], weights, states)
            else:
                assert names == ["logits"]
                assert_within_budget(given["logits"][row, real], weights, predicted)


def test_vectors_that_no_norm_ends_in_are_refused(tmp_path: Path):
    """Their last norm is inside of a sublayer, and the sum goes past it."""
    config = rotary(Pool("first"))
    norm = config.stack.first_norm
    layers = tuple(
        replace(
            layer,
            attention=replace(layer.attention, pre=norm, after=None),
            mlp=replace(layer.mlp, pre=norm, after=None),
        )
        for layer in config.stack.layers
    )
    with refused(ExportError, "norm", "layer"):
        session(replace(config, stack=replace(config.stack, layers=layers)), tmp_path)


@pytest.mark.long
def test_config_json_has_the_heads_of_longformers_attention(tmp_path: Path):
    session(tiny_models.windowed(head=Tag(5)), tmp_path)
    assert hub_files.config(open_bundle(tmp_path / "bundle"))["num_attention_heads"] == 6


@pytest.mark.long
def test_config_json_has_the_heads_and_segments_of_xlnets_attention(tmp_path: Path):
    session(tiny_models.relative(head=Tag(5)), tmp_path)
    stated = hub_files.config(open_bundle(tmp_path / "bundle"))
    assert (stated["num_attention_heads"], stated["type_vocab_size"]) == (6, 3)


REFUSED = {
    "an encoder without a decoder": (tiny_models.llama(), "ort-cpu"),
    "but it is for ort-cuda": (rotary(Pool()), "ort-cuda"),
    "but it is for standard": (rotary(Pool()), "standard"),
    "got QuestionAnswering": (rotary(QuestionAnswering()), "ort-cpu"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_the_ports_dont_cover_is_refused_with_its_reason(words: str):
    config, target = REFUSED[words]
    assert words in (encoder_graph.refusal(config, targets.find(target)) or "")
    covered = rotary(Classify(3)), tiny_models.reading_decoder()
    assert [encoder_graph.refusal(config, targets.find("ort-cpu")) for config in covered] == [None, None]

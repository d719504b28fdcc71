"""What the model of speech is given: samples, those before them, and its own state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tfm.refimpl.engine.sound import RATE
from tfm.runtime.ort import voice
from tfm.runtime.ort.voice import BEFORE, CHUNK, Voice
from tfm.runtime.tasks.utterances import CHUNK as OF_UTTERANCES


def write(path: Path) -> Path:
    """A model in Silero's form: weighted samples, plus what is kept in the state, which counts up by `sr`."""
    kinds = {"input": (TensorProto.FLOAT, [1, BEFORE + CHUNK]), "state": (TensorProto.FLOAT, [2, 1, 128])}
    inputs = [helper.make_tensor_value_info(name, *of) for name, of in kinds.items()]
    inputs.append(helper.make_tensor_value_info("sr", TensorProto.INT64, []))
    weights = np.arange(BEFORE + CHUNK, dtype=np.float32)[:, None]
    nodes = [
        helper.make_node("MatMul", ["input", "weights"], ["sum"]),
        helper.make_node("Gather", ["state", "zero"], ["first"]),
        helper.make_node("Gather", ["first", "zero"], ["second"]),
        helper.make_node("Gather", ["second", "zero"], ["kept"]),
        helper.make_node("Add", ["sum", "kept"], ["output"]),
        helper.make_node("Cast", ["sr"], ["step"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["state", "step"], ["stateN"]),
    ]
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1])]
    outputs.append(helper.make_tensor_value_info("stateN", TensorProto.FLOAT, [2, 1, 128]))
    stored = [
        onnx.numpy_helper.from_array(weights, "weights"),
        onnx.numpy_helper.from_array(np.int64(0), "zero"),
    ]
    graph = helper.make_graph(nodes, "voice", inputs, outputs, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_a_chunk_is_judged_after_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert CHUNK == OF_UTTERANCES
    monkeypatch.setattr(voice, "fetch", lambda name, _: write(tmp_path / f"{name}.onnx"))
    speaks, sound = Voice(), np.random.default_rng(1).uniform(-1, 1, 3 * CHUNK - 100)
    for i in range(3):
        read = np.zeros(BEFORE + CHUNK)
        there = np.concatenate([np.zeros(BEFORE), sound])[i * CHUNK :][: BEFORE + CHUNK]
        read[: len(there)] = there
        wanted = read @ np.arange(BEFORE + CHUNK) + i * RATE
        assert speaks(sound[i * CHUNK : (i + 1) * CHUNK]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.real
@pytest.mark.long
def test_the_pinned_model_hears_that_nobody_speaks():
    """In silence, noise and a tone."""
    rng, at = np.random.default_rng(1), np.arange(64 * CHUNK) / RATE
    for sound in (np.zeros(len(at)), rng.normal(size=len(at)) * 0.01, 0.3 * np.sin(2 * np.pi * 440 * at)):
        speaks = Voice()
        assert max(map(speaks, sound.reshape(-1, CHUNK))) < 0.5

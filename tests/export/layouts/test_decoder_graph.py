"""A decoder's graph with other runtimes' ports computes the specification, however its rows are padded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import tiny_models
from helpers.exported import exported
from helpers.refused import refused
from helpers.within_budget import assert_within_budget
from tfm.export.layouts import decoder_graph
from tfm.refimpl.config import Chunked, Decoder, Rope, Window
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.bundle import targets
from tfm.runtime.bundle.bundle import Bundle

ROWS = ([5, 17, 3, 88, 41], [9, 2], [60, 33, 7])
AFTER = ([70, 11], [4, 90], [28, 6])  # what follows, token by token
PADDED = {
    "right": ([1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]),
    "left": ([1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]),
    "between": ([1, 1, 1, 1, 1], [0, 1, 0, 1, 0], [1, 0, 1, 0, 1]),
}


def windows() -> Decoder:
    """Layers with full attention or one of two windows, two kinds of rotation and none, and a soft cap."""
    config = tiny_models.mixed_windows(context=40)
    mixers = (replace(layer.attention, heads=6, kv_heads=2) for layer in config.layers)
    return tiny_models.with_mixers(config, *mixers)


def copied() -> Decoder:
    """Layers that GroupQueryAttention doesn't compute: ALiBi, relative biases, few rotary dims, chunks."""
    config = tiny_models.added_positions(context=40)
    first, *others = config.layers
    rotated = replace(first.attention, position=Rope(100.0, 8), mask=Chunked(4))
    near = replace(first, attention=replace(first.attention, mask=Window(3)))
    return tiny_models.of_layers(config, (near, *others, replace(first, attention=rotated)))


CONFIG = windows()
CONFIGS = {"windowed": CONFIG, "copied": copied()}


@pytest.fixture(scope="module", params=["windowed", pytest.param("copied", marks=pytest.mark.long)])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose cache GroupQueryAttention would let grow, and one with a copied cache."""
    bundle = exported(tmp_path_factory.mktemp("decoder"), CONFIGS[request.param], seed=4)
    assert bundle.cache == request.param
    return bundle


@pytest.fixture(scope="module", params=[False, True], ids=["last", "every"])
def session(request: pytest.FixtureRequest, bundle: Bundle, tmp_path_factory: Any) -> ort.InferenceSession:
    """The graph with logits of the last tokens, and with all."""
    out = tmp_path_factory.mktemp("layout") / "model.onnx"
    decoder_graph.write(bundle, out, data="weights", every_position=request.param)
    return ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])


def expect(bundle: Bundle, got: np.ndarray, tokens: list[int]) -> None:
    """Logits of a row's last tokens are the specification's."""
    config = bundle.config

    def specified(weights: Any) -> np.ndarray:
        engine, ids = NumpyEngine(config, weights), np.array([tokens])
        at = np.arange(len(tokens))[None, -len(got) :]
        return engine.step(ids, engine.start(1), at=at)[0][0]

    assert_within_budget(got, tiny_models.weights(config, seed=4), specified)


class Client:
    """What another runtime does: it keeps the mask and the outputs of the cache, and feeds them again."""

    def __init__(self, session: ort.InferenceSession, batch: int) -> None:
        self.session, self.mask = session, np.zeros((batch, 0), np.int64)
        self.cache = {
            port.name: np.zeros((batch, port.shape[1], 0, port.shape[3]), np.float32)
            for port in session.get_inputs()[2:]
        }

    def step(self, ids: Any, mask: Any) -> np.ndarray:
        self.mask = np.concatenate([self.mask, np.array(mask)], axis=1)
        feeds = {"input_ids": np.array(ids), "attention_mask": self.mask, **self.cache}
        logits, *arrays = self.session.run(None, feeds)
        self.cache = dict(zip(self.cache, arrays, strict=True))
        return np.asarray(logits)


@pytest.mark.parametrize("side", PADDED)
def test_rows_may_be_padded_on_any_side(bundle: Bundle, session: ort.InferenceSession, side: str):
    client, mask = Client(session, 3), np.array(PADDED[side])
    ids = np.full(mask.shape, 96)
    ids[mask == 1] = np.concatenate(ROWS)
    logits = client.step(ids, mask)
    for row, tokens in enumerate(ROWS):
        got = logits[row, mask[row] == 1] if logits.shape[1] > 1 else logits[row]
        expect(bundle, got, tokens)
    for i in range(2):
        logits = client.step([[tokens[i]] for tokens in AFTER], np.ones((3, 1), np.int64))
        for row, tokens in enumerate(ROWS):
            expect(bundle, logits[row], [*tokens, *AFTER[row][: i + 1]])


def test_one_row_reads_on_in_chunks(bundle: Bundle, session: ort.InferenceSession):
    client, tokens = Client(session, 1), [5, 17, 3, 88, 41, 9, 2, 60, 33, 7]
    for start, end in ((0, 4), (4, 9), (9, 10)):
        logits = client.step([tokens[start:end]], np.ones((1, end - start), np.int64))
        expect(bundle, logits[0], tokens[:end])


def test_several_rows_read_on_in_chunks_of_a_copied_cache_alone(
    bundle: Bundle, session: ort.InferenceSession
):
    client, rows = Client(session, 2), ([5, 17, 70, 11], [9, 4, 90, 2])
    client.step([row[:2] for row in rows], np.ones((2, 2), np.int64))
    ids, mask = [rows[0][2:], [rows[1][2], 0]], [[1, 1], [1, 0]]
    if bundle.cache != "copied":
        with refused(Exception, "batch_size", "1", "sequence_length"):
            client.step(ids, mask)
        return
    logits = client.step(ids, mask)
    expect(bundle, logits[0], rows[0])
    expect(bundle, logits[1, :1], rows[1][:3])
    logits = client.step([[7], [rows[1][3]]], np.ones((2, 1), np.int64))
    expect(bundle, logits[0], [*rows[0], 7])
    expect(bundle, logits[1], rows[1])


def test_ports_have_the_names_and_axes_that_runtimes_look_for(bundle: Bundle, session: ort.InferenceSession):
    inputs = {port.name: port.shape for port in session.get_inputs()}
    outputs = {port.name: port.shape for port in session.get_outputs()}
    assert list(inputs)[:2] == ["input_ids", "attention_mask"]
    assert inputs["input_ids"] == ["batch_size", "sequence_length"]
    size = decoder_graph.attention(bundle.config).head_size
    assert inputs["past_key_values.3.value"] == ["batch_size", 2, "past_sequence_length", size]
    assert outputs["present.0.key"] == ["batch_size", 2, "total_sequence_length", size]
    assert outputs["logits"][1:] in ([1, 97], ["sequence_length", 97])
    assert len(inputs) == 2 + 2 * 4


def test_the_file_says_what_it_is(bundle: Bundle, tmp_path: Path):
    decoder_graph.write(bundle, tmp_path / "model.onnx", data="weights", every_position=False)
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    stated = {entry.key: entry.value for entry in model.metadata_props}
    source = bundle.manifest.source
    assert (stated["model"], stated["model_sha256"]) == (source.name, source.sha256)
    assert (stated["quantization"], stated["tfm"]) == ("fp32", bundle.manifest.tfm)


REFUSED = {
    "a decoder without an encoder": (tiny_models.encoder(), "ort-cpu"),
    "must be a decoder": (tiny_models.encoder_decoder(), "ort-cpu"),
    "export for target=ort-cpu": (CONFIG, "standard"),
    "for ort-cuda": (CONFIG, "ort-cuda"),
    "cache a recurrent state": (tiny_models.recurrent(), "ort-cpu"),
    "cache something else": (tiny_models.latents(), "ort-cpu"),
    "kv=float": (CONFIG.with_kv("int8"), "ort-cpu"),
    "the same heads": (tiny_models.mixed_windows(), "ort-cpu"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_the_ports_dont_cover_is_refused_with_its_reason(words: str):
    config, target = REFUSED[words]
    assert words in (decoder_graph.refusal(config, targets.find(target)) or "")


def test_what_they_cover_is_not_refused():
    for config in (
        *CONFIGS.values(),
        tiny_models.llama(),
        tiny_models.sinks(),
        tiny_models.llama(plain=True, bias=True),
    ):
        assert decoder_graph.refusal(config, targets.find("ort-cpu")) is None
    assert isinstance(decoder_graph.attention(CONFIG).mask, Window)

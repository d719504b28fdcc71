"""A decoder's graph with other runtimes' ports computes the specification, however its rows are padded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from helpers import tiny_models
from helpers.exported import export_once
from helpers.refused import refused
from helpers.within_budget import assert_within_budget
from tfm.export.layouts import decoder_graph
from tfm.export.layouts.transformers_js import STATES
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


def states() -> Decoder:
    """Layers with states, with keys, with both and with none: one reads the keys of another."""
    base = tiny_models.gated_deltas(context=40)
    deltas, attention, _ = base.layers
    mixer = replace(attention.attention, output_gate=False, head_gate=False)
    reading = replace(attention, attention=replace(mixer, kv_layer=1))
    beside = tiny_models.state_spaces().layers[1]
    return tiny_models.of_layers(base, (deltas, replace(attention, attention=mixer), reading, beside))


def latents() -> Decoder:
    """Layers with latents, with an indexer and without one, and a layer with states."""
    (indexed, *_), (plain, *_) = tiny_models.indexed().layers, tiny_models.latents().layers
    base = tiny_models.kimi(context=40)
    return tiny_models.of_layers(base, (indexed, plain, base.layers[0]))


CONFIG = windows()
CONFIGS = {"windowed": CONFIG, "copied": copied(), "states": states(), "latents": latents()}
CACHES = {"windowed": "windowed", "copied": "copied", "states": "shared", "latents": "copied"}
# Models, and whether the graph has logits of all tokens or of the last ones.
CASES = [
    ("windowed", False),
    ("windowed", True),
    ("states", False),
    *(pytest.param(case, marks=pytest.mark.long) for case in product(("copied", "latents"), (False, True))),
]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], Bundle]:
    return export_once(tmp_path_factory.mktemp("decoder"), CONFIGS, seed=4)


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> tuple[str, bool]:
    return request.param


@pytest.fixture(scope="module")
def bundle(case: tuple[str, bool], bundles: Callable[[str, str, str], Bundle]) -> Bundle:
    """A bundle whose cache GroupQueryAttention would let grow, one with a copied cache, and one of each with
    layers that cache other things."""
    bundle = bundles(case[0], "ort-cpu", "fp32")
    assert bundle.cache == CACHES[case[0]]
    return bundle


@pytest.fixture(scope="module")
def session(case: tuple[str, bool], bundle: Bundle, tmp_path_factory: Any) -> ort.InferenceSession:
    out = tmp_path_factory.mktemp("layout") / "model.onnx"
    decoder_graph.write(bundle, out, data="weights", every_position=case[1], states=STATES)
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
        sizes = {"batch_size": batch, "past_sequence_length": 0}
        self.cache = {
            port.name: np.zeros([sizes.get(axis, axis) for axis in port.shape], np.float32)
            for port in session.get_inputs()[2:]
        }
        # The names of what replaces them in the next step.
        self.next = {
            port.name: port.name.replace("past_key_values", "present").replace("past_", "present_")
            for port in session.get_inputs()[2:]
        }

    def step(self, ids: Any, mask: Any) -> np.ndarray:
        self.mask = np.concatenate([self.mask, np.array(mask)], axis=1)
        feeds = {"input_ids": np.array(ids), "attention_mask": self.mask, **self.cache}
        names = [port.name for port in self.session.get_outputs()]
        given = dict(zip(names, self.session.run(None, feeds), strict=True))
        self.cache = {name: given.pop(self.next[name]) for name in self.cache}
        (logits,) = given.values()
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


KEPT, GROWN = "past_sequence_length", "total_sequence_length"
# Of each model a few of the cache's ports, and how many inputs the cache has.
PORTS = {
    "windowed": (8, {"past_key_values.3.value": [2, KEPT, 16], "present.0.key": [2, GROWN, 16]}),
    "copied": (8, {"past_key_values.3.value": [2, KEPT, 12], "present.0.key": [2, GROWN, 12]}),
    "states": (
        8,
        {
            "past_key_values.1.value": [2, KEPT, 16],
            "present.3.key": [2, GROWN, 16],
            "past_conv.3": [2, 64],
            "present_conv.0": [2, 112],
            "past_ssm.0": [4, 16, 12],
        },
    ),
    "latents": (
        6,
        {
            "past_key_values.0.value": [1, KEPT, 15],
            "present.0.key": [1, GROWN, 15],
            "present.1.value": [1, GROWN, 13],
            "past_ssm.2": [3, 8, 12],
        },
    ),
}


def test_ports_have_the_names_and_axes_that_runtimes_look_for(
    case: tuple[str, bool], session: ort.InferenceSession
):
    count, expected = PORTS[case[0]]
    ports = {port.name: port.shape for port in (*session.get_inputs(), *session.get_outputs())}
    assert list(ports)[:2] == ["input_ids", "attention_mask"]
    assert ports["input_ids"] == ["batch_size", "sequence_length"]
    assert {name: ports[name] for name in expected} == {n: ["batch_size", *s] for n, s in expected.items()}
    assert ports["logits"][1:] in ([1, 97], ["sequence_length", 97])
    assert len(session.get_inputs()) == 2 + count
    assert len(session.get_outputs()) == 1 + count


def test_the_file_says_what_it_is(bundles: Callable[[str, str, str], Bundle], tmp_path: Path):
    bundle = bundles("windowed", "ort-cpu", "fp32")
    decoder_graph.write(bundle, tmp_path / "model.onnx", data="weights", every_position=False)
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    onnx.checker.check_model(str(tmp_path / "model.onnx"))
    stated = {entry.key: entry.value for entry in model.metadata_props}
    source = bundle.manifest.source
    assert (stated["model"], stated["model_sha256"]) == (source.name, source.sha256)
    assert (stated["quantization"], stated["tfm"]) == ("fp32", bundle.manifest.tfm)


def odd() -> Decoder:
    """Two layers whose latents have 26 numbers and 25."""
    first, second = tiny_models.latents().layers
    plain = replace(first.attention, position=None, shared_size=5)
    return tiny_models.of_layers(tiny_models.latents(), (first, replace(second, attention=plain)))


REFUSED = {
    "a decoder without an encoder": (tiny_models.encoder(), "ort-cpu"),
    "must be a decoder": (tiny_models.encoder_decoder(), "ort-cpu"),
    "export for target=ort-cpu": (CONFIG, "standard"),
    "for ort-cuda": (CONFIG, "ort-cuda"),
    "the runtime has no input for the states of layer 0": (tiny_models.recurrent(), "ort-cpu"),
    "a latent of layer 1 must have an even number of floats": (odd(), "ort-cpu"),
    "kv=float": (CONFIG.with_kv("int8"), "ort-cpu"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_the_ports_dont_cover_is_refused_with_its_reason(words: str):
    config, target = REFUSED[words]
    assert words in (decoder_graph.refusal(config, targets.find(target)) or "")


def test_what_they_cover_is_not_refused():
    configs = tiny_models.llama(), tiny_models.sinks(), tiny_models.llama(plain=True, bias=True)
    for config in (*CONFIGS.values(), *configs):
        assert decoder_graph.refusal(config, targets.find("ort-cpu"), STATES) is None

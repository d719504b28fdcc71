"""Encoders and encoder-decoders end to end: export, verify, and what the engine refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import tiny_models
from helpers.exported import exported
from helpers.refused import refused
from helpers.text_strategies import byte_tokenizer
from tfm.export.bundle_writer import export
from tfm.export.quantization.activation_recorder import record
from tfm.export.quantization.plan import Calibration
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import (
    LM,
    Classify,
    Config,
    DecoderReader,
    Dense,
    Encoder,
    Pool,
    QuestionAnswering,
    RelativeBias,
    Rope,
    Stack,
    Tag,
    Window,
)
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import BundleError, ConfigError, LimitError
from tfm.refimpl.params.shapes import multiplied
from tfm.refimpl.params.tree import flatten
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.bundle.schemes import SCHEMES
from tfm.runtime.bundle.views import stored_name
from tfm.runtime.ort import encoder_session
from tfm.runtime.ort import engine as runtime_engine
from tfm.runtime.ort.encoder_session import EncoderSession
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.verification.checks.source import WEIGHTS
from tfm.runtime.verification.verify import verify

TEXT = "The quick brown fox jumps over the lazy dog, and nobody knows why it has to be so quick. " * 6


def byte_vocabulary(config: Config) -> Config:
    """A Config with a token for each byte."""
    return replace(config, embedding=replace(config.embedding, vocabulary=256))


MASKED = byte_vocabulary(tiny_models.encoder())
PROJECTIONS = (Dense("tanh", width=40), Dense(None, bias=False, width=12))
POOLED = tiny_models.encoder(head=Pool("mean", Dense("tanh"), unit=True, projections=PROJECTIONS))
LAYER = POOLED.stack.layers[0]
MIXED_LAYERS = (
    LAYER,
    replace(LAYER, attention=replace(LAYER.attention, position=Rope(100.0, 8), mask=Window(3))),
    replace(
        LAYER, attention=replace(LAYER.attention, position=RelativeBias(8, 20), mask=Window(3), clip=0.5)
    ),
)
MIXED = replace(POOLED, stack=replace(POOLED.stack, layers=MIXED_LAYERS))
GROUPED = replace(LAYER, attention=replace(LAYER.attention, kv_heads=2))
GROUPED = replace(POOLED, stack=replace(POOLED.stack, layers=(GROUPED, LAYER)))
CAUSAL = replace(MIXED, stack=replace(MIXED.stack, causal=True), head=Classify(3, "last", bias=False))
# A causal encoder of Llama's form: rotary, with grouped heads and head norms.
LLAMA = tiny_models.llama(qk_norm=True)
LLAMA = Encoder(LLAMA.embedding, replace(LLAMA.stack, causal=True), Pool("last", unit=True), LLAMA.context)
READER = tiny_models.rotary_encoder_decoder()
assert isinstance(READER.decoder, Stack)
LAST = DecoderReader(replace(READER.decoder, causal=True), 3)
CAPPED = Encoder(
    READER.embedding,
    replace(
        READER.encoder,
        layers=tuple(
            replace(layer, attention=replace(layer.attention, kv_heads=2, softcap=3.0))
            for layer in READER.encoder.layers
        ),
    ),
    QuestionAnswering(),
    READER.context,
)
READER = replace(READER, decoder=LAST, head=Classify(3, "last", Dense("tanh")))
CASES: dict[str, tuple[Config, str, str]] = {
    "causal, rotary, windows, relative biases, float": (CAUSAL, "ort-cpu", "fp32"),
    "causal, grouped heads, int8": (LLAMA, "ort-cpu", "int8"),
    "causal, half": (LLAMA, "standard", "fp16"),
    "read twice, int8-dynamic": (READER, "ort-cpu", "int8-dynamic"),
    "masked, int8-dynamic": (MASKED, "ort-cpu", "int8-dynamic"),
    "masked, int8-dynamic, standard": (MASKED, "standard", "int8-dynamic"),
    "masked, int4": (MASKED, "ort-cpu", "int4"),
    "masked, int8-static": (MASKED, "standard", "int8-static"),
    "rotary, windows, relative biases, int8": (MIXED, "ort-cpu", "int8"),
    "classified, int8": (replace(MASKED, head=Classify(3, dense=Dense("tanh"))), "standard", "int8"),
    "heads in groups and biases, float": (GROUPED, "ort-cpu", "fp32"),
    "grouped heads, soft caps": (CAPPED, "ort-cpu", "fp32"),
    "read, int4": (byte_vocabulary(tiny_models.encoder_decoder()), "ort-cpu", "int4"),
    "read, w8a16": (byte_vocabulary(tiny_models.rotary_encoder_decoder()), "standard", "w8a16"),
    "masked, int8-dynamic, web": (MASKED, "ort-web", "int8-dynamic"),
}  # fmt: skip
FEEDBACK = "rounding with feedback: without a calibration text, the model must be a decoder"
REASONS = {
    "grouped heads, soft caps": [
        "MultiHeadAttention in encoder layer 0: a soft cap needs standard ONNX operators"
    ],
    "read, int4": [
        "GroupQueryAttention in layer 0: scores with a bias need standard ONNX operators",
        FEEDBACK,
    ],
    "masked, int4": [FEEDBACK],
}


# Of the standard target this runs by default, the others in CI; and those whose kin are here.
USUAL = {"causal, half"}
RARE = {
    "causal, grouped heads, int8",
    "rotary, windows, relative biases, int8",
    "grouped heads, soft caps",
    "read twice, int8-dynamic",
    "read, int4",
    "masked, int4",
    "heads in groups and biases, float",
    "masked, int8-dynamic, web",
}


def marked(case: str) -> Any:
    rare = case in RARE or (CASES[case][1] == "standard" and case not in USUAL)
    return pytest.param(case, marks=pytest.mark.long if rare else ())


@pytest.mark.parametrize("case", [marked(case) for case in CASES])
def test_exported_bundles_pass_verify(case: str, tmp_path: Path) -> None:
    config, target, quant = CASES[case]
    tokenizer = byte_tokenizer() if config.embedding.vocabulary == 256 else None
    save_checkpoint(tmp_path / "source", config, tiny_models.weights(config), tokenizer)
    (tmp_path / "text.txt").write_text(TEXT)
    calibration = Calibration(tmp_path / "text.txt", alpha=0.5) if SCHEMES[quant].calibrated else None
    out, source = tmp_path / "out", open_checkpoint(tmp_path / "source")
    export(source, out, target=target, quant=quant, calibration=calibration, verify=False)
    report = verify(out, source=source.path)
    assert not report.failed
    names = {row.name for row in report.rows if row.ok}
    reads_only = not isinstance(config.head, LM)
    assert {WEIGHTS, "each row alone: largest error"} <= names
    assert any("padding" in name for name in names) == reads_only
    manifest = open_bundle(out).manifest
    assert (manifest.cache == "none") == reads_only
    reasons = REASONS.get(case, [])
    assert [got[: len(want)] for got, want in zip(manifest.refused, reasons, strict=True)] == reasons
    files = [out / name for name in sorted(manifest.files) if name in ("model.onnx", "encoder.onnx")]
    graphs = [onnx.load(file, load_external_data=False).graph for file in files]
    assert len(graphs) == (1 if reads_only else 2)
    kinds = {node.op_type for graph in graphs for node in graph.node}
    assert ("MultiHeadAttention" in kinds) == (target != "standard" and config is not CAPPED)
    stored = {stored_name(i.name, manifest.tensors) for graph in graphs for i in graph.initializer}
    assert stored >= manifest.tensors.keys()


def test_no_row_reads_padding_or_another_row(tmp_path: Path) -> None:
    """Bit for bit: with fused attention, windows over padding only, and a text without tokens."""
    engine = OrtEngine(exported(tmp_path, MIXED, quant="int8-dynamic"), threads=1)
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(0, 97, (4, 11)), np.array([11, 2, 0, 7])
    outputs = engine.predict(ids, lengths)
    other = np.where(np.arange(11) < lengths[:, None], ids, rng.integers(0, 97, ids.shape))
    np.testing.assert_array_equal(engine.predict(other, lengths), outputs)
    for row in (0, 1, 3):
        alone = engine.predict(ids[row : row + 1, : lengths[row]])
        np.testing.assert_allclose(alone[0], outputs[row], rtol=0, atol=2e-6)
    with refused(ConfigError, "decoder", "steps"):
        engine.start(1)
    with refused(LimitError, "token_types", 2):
        engine.predict(ids, lengths, np.full_like(ids, 2))


@pytest.mark.parametrize("head", [POOLED.head, Tag(5)])
def test_many_texts_are_read_in_runs(head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a run have similar lengths; outputs are in the order of the texts."""
    config = replace(POOLED, head=head)
    engine, rng, seen = OrtEngine(exported(tmp_path, config), threads=1), np.random.default_rng(0), []
    ids, lengths, types = (
        rng.integers(0, 97, (5, 11)),
        np.array([11, 2, 0, 7, 2]),
        rng.integers(0, 2, (5, 11)),
    )
    at_once, run = engine.predict(ids, lengths, types), EncoderSession.run
    monkeypatch.setattr(
        EncoderSession, "run", lambda self, ids, *rest: (seen.append(ids.shape), run(self, ids, *rest))
    )
    for module in (encoder_session, runtime_engine):
        monkeypatch.setattr(module, "TOKENS_PER_RUN", 8)
    outputs = engine.predict(ids, lengths, types)
    assert seen == [(3, 2), (1, 7), (1, 11)]
    assert outputs.shape == at_once.shape
    real = np.arange(11) < lengths[:, None] if outputs.ndim == 3 else lengths > 0
    np.testing.assert_allclose(outputs[real], at_once[real], rtol=0, atol=2e-6)
    assert np.isfinite(outputs).all()


def test_runs_contain_every_row_once() -> None:
    for lengths in ([0], [600], [0, 0, 0], [512, 1, 512], [3] * 400, [*range(60)]):
        runs = encoder_session.runs(np.array(lengths))
        assert sorted(np.concatenate(runs).tolist()) == [*range(len(lengths))]
        most = encoder_session.TOKENS_PER_RUN
        assert all(len(rows) == 1 or len(rows) * lengths[rows[-1]] <= most for rows in runs)
    assert [len(rows) for rows in encoder_session.runs(np.full(32, 64))] == [8] * 4


def reader(folder: Path) -> OrtEngine:
    config = tiny_models.rotary_encoder_decoder()
    return OrtEngine(exported(folder, config), threads=1)


@pytest.mark.long
def test_a_text_without_tokens_adds_nothing(tmp_path: Path) -> None:
    """Fused attention alone would give such a row the mean of its padding."""
    engine = reader(tmp_path)
    spec = NumpyEngine(engine.config, tiny_models.weights(engine.config))
    ids = np.random.default_rng(0).integers(0, 97, (2, 5))
    outputs = [one.step(ids[:, :3], one.start(2, ids, np.array([5, 0])))[0] for one in (engine, spec)]
    np.testing.assert_allclose(*outputs, rtol=0, atol=2e-6)


@pytest.mark.long
def test_beams_of_one_text_share_its_keys_and_values(tmp_path: Path) -> None:
    """Rows of one text are exchanged without a copy; rows of different texts are copied."""
    engine = reader(tmp_path)
    ids = np.random.default_rng(0).integers(0, 97, (2, 5))
    with refused(ConfigError, "start", "encoder_ids"):
        engine.start(1)
    with refused(ConfigError, "step", "by", "step"):
        engine.predict(ids)
    cache = engine.start(2, ids).select(np.array([1, 1, 0]))
    state = cache.take()
    memory = state.encoder_kv
    assert memory is not None
    kept = [buffer.read().copy() for buffer in memory.buffers]
    state.permute(np.array([1, 0, 2]), np.zeros(3, np.int64))
    assert state.encoder_kv is memory
    assert all(
        np.shares_memory(b.read(), m.read())
        for b, m in zip(memory.selected(np.array([1, 2])).buffers, memory.buffers, strict=True)
    )
    state.permute(np.array([2, 1, 2]), np.zeros(3, np.int64))
    assert state.encoder_kv is not None
    for now, old, was in zip(state.encoder_kv.buffers, memory.buffers, kept, strict=True):
        np.testing.assert_array_equal(now.read(), was[[2, 1, 2]])
        np.testing.assert_array_equal(old.read(), was)


@pytest.mark.parametrize(
    "make", [tiny_models.encoder, tiny_models.encoder_decoder, tiny_models.rotary_encoder_decoder]
)
def test_every_product_is_recorded(make: Any) -> None:
    config = make()
    leaves = dict(flatten(tiny_models.weights(config)))
    results: dict[str, int] = {}

    def seen(names: tuple[str, ...], x: np.ndarray) -> None:
        for name in names:
            axis = int(name.endswith(".table"))
            assert x.shape[1] == leaves[name].shape[axis]
            results[name] = results.get(name, 0) + len(x)

    record(config, leaves.__getitem__, windows=[list(range(20))], on_input=seen)
    assert set(results) - {"head.out.weight"} == multiplied(config)
    assert set(results.values()) == {20}


@pytest.mark.long
def test_an_encoders_graph_may_be_neither_missing_nor_superfluous(tmp_path: Path) -> None:
    config = tiny_models.encoder_decoder(layers=1)
    save_checkpoint(tmp_path / "source", config, tiny_models.weights(config))
    out = tmp_path / "out"
    export(open_checkpoint(tmp_path / "source"), out, quant="fp32", target="standard", verify=False)
    graph = (out / "encoder.onnx").read_bytes()
    (out / "encoder.onnx").write_bytes(graph[:-1] + b"?")
    with refused(BundleError, "encoder.onnx", "bytes"):
        open_bundle(out)
    (out / "encoder.onnx").unlink()
    with refused(BundleError, "encoder.onnx", "file"):
        open_bundle(out)

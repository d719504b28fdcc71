"""Encoders, and decoders that read one, the whole road: export, verify, and what the engine refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import tiny_models
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
    FullAttention,
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
from tfm.refimpl.params.shapes import multiplied, parameter_shapes
from tfm.refimpl.params.tree import flatten
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort import encoder_session
from tfm.runtime.ort import engine as runtime_engine
from tfm.runtime.ort.encoder_session import EncoderSession
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.verification.verify import verify

TEXT = "The quick brown fox jumps over the lazy dog, and nobody knows why it has to be so quick. " * 6


def vocal(config: Config) -> Config:
    """A Config with a token for each byte."""
    return replace(config, embedding=replace(config.embedding, vocabulary=256))


FORM = vocal(tiny_models.encoder())
PLAIN = tiny_models.encoder(head=Pool("mean", Dense("tanh"), unit=True))
ONE, NEAR = PLAIN.stack.layers[0], Window(3)
PLACES = ((None, FullAttention()), (Rope(100.0, 8), NEAR), (RelativeBias(8, 20), NEAR))
LAYERS = tuple(
    replace(ONE, attention=replace(ONE.attention, position=position, mask=pattern, clip=clip))
    for (position, pattern), clip in zip(PLACES, (None, None, 0.5), strict=True)
)
RICH = replace(PLAIN, stack=replace(PLAIN.stack, layers=LAYERS))
SHARED = replace(ONE, attention=replace(ONE.attention, kv_heads=2))
SHARED = replace(PLAIN, stack=replace(PLAIN.stack, layers=(SHARED, ONE)))
LATE = replace(RICH, stack=replace(RICH.stack, causal=True), head=Classify(3, "last", bias=False))
# As a decoder of our time reads: rotary, heads in groups, each normalized.
LLAMA = tiny_models.llama(qk_norm=True)
LLAMA = Encoder(LLAMA.embedding, replace(LLAMA.stack, causal=True), Pool("last", unit=True), LLAMA.context)
TWICE = tiny_models.rotary_encoder_decoder()
assert isinstance(TWICE.decoder, Stack)
LAST = DecoderReader(replace(TWICE.decoder, causal=True), 3)
GROUPED = Encoder(
    TWICE.embedding,
    replace(
        TWICE.encoder,
        layers=tuple(
            replace(layer, attention=replace(layer.attention, kv_heads=2, softcap=3.0))
            for layer in TWICE.encoder.layers
        ),
    ),
    QuestionAnswering(),
    TWICE.context,
)
TWICE = replace(TWICE, decoder=LAST, head=Classify(3, "last", Dense("tanh")))
CASES: dict[str, tuple[Config, str, str]] = {
    "causal, rotary, windows, relative biases, float": (LATE, "ort-cpu", "fp32"),
    "causal, rotary, windows, relative biases, int8-dynamic": (LATE, "ort-cpu", "int8-dynamic"),
    "causal, grouped heads, float": (LLAMA, "ort-cpu", "fp32"),
    "causal, grouped heads, int8": (LLAMA, "ort-cpu", "int8"),
    "causal, half": (LLAMA, "standard", "fp16"),
    "read twice, float": (TWICE, "ort-cpu", "fp32"),
    "read twice, int8-dynamic": (TWICE, "ort-cpu", "int8-dynamic"),
    "read twice, int8-static": (vocal(TWICE), "standard", "int8-static"),
    "masked, int8-dynamic": (FORM, "ort-cpu", "int8-dynamic"),
    "masked, int8-dynamic, standard": (FORM, "standard", "int8-dynamic"),
    "masked, int4": (FORM, "ort-cpu", "int4"),
    "masked, int8-static": (FORM, "standard", "int8-static"),
    "rotary, windows, relative biases, float": (RICH, "ort-cpu", "fp32"),
    "rotary, windows, relative biases, int8": (RICH, "ort-cpu", "int8"),
    "tagged, half": (replace(FORM, head=Tag(5)), "standard", "fp16"),
    "classified, int8": (replace(FORM, head=Classify(3, dense=Dense("tanh"))), "standard", "int8"),
    "heads in groups and biases, float": (SHARED, "ort-cpu", "fp32"),
    "grouped heads, soft caps": (GROUPED, "ort-cpu", "fp32"),
    "read, int4": (vocal(tiny_models.encoder_decoder()), "ort-cpu", "int4"),
    "read, int8-static": (vocal(tiny_models.rotary_encoder_decoder()), "standard", "int8-static"),
}  # fmt: skip
REASONS = {
    "grouped heads, soft caps": "MultiHeadAttention in encoder layer 0: a soft cap needs the standard form",
    "read, int4": "GroupQueryAttention in layer 0: scores with a bias need the standard form",
}


@pytest.mark.parametrize("case", CASES)
def test_the_whole_road(case: str, tmp_path: Path) -> None:
    config, target, quant = CASES[case]
    told = byte_tokenizer() if config.embedding.vocabulary == 256 else None
    save_checkpoint(tmp_path / "source", config, tiny_models.weights(config), told)
    (tmp_path / "text.txt").write_text(TEXT)
    calibration = Calibration(tmp_path / "text.txt", alpha=0.5) if quant == "int8-static" else None
    out, source = tmp_path / "out", open_checkpoint(tmp_path / "source")
    export(source, out, target=target, quant=quant, calibration=calibration, verify=False)
    report = verify(out, source=source.path)
    assert not report.failed
    names = {row.name for row in report.rows if row.ok}
    alone = not isinstance(config.head, LM)
    assert {"weights equal the source's", "each row alone: largest error"} <= names
    assert ("with more padding: largest error" in names) == alone
    made = open_bundle(out).manifest
    assert (made.cache == "none") == alone
    assert [reason.startswith(REASONS[case]) for reason in made.refused] == [True] * (case in REASONS)
    files = [out / name for name in sorted(made.files) if name.endswith(".onnx")]
    graphs = [onnx.load(file, load_external_data=False).graph for file in files]
    assert len(graphs) == (1 if alone else 2)
    kinds = {node.op_type for graph in graphs for node in graph.node}
    assert ("MultiHeadAttention" in kinds) == (target == "ort-cpu" and config is not GROUPED)
    weights = [{i.name for i in graph.initializer} & made.tensors.keys() for graph in graphs]
    assert set.union(*weights) == made.tensors.keys()


def test_no_row_reads_padding_or_another_row(tmp_path: Path) -> None:
    """To the bit, with fused attention, windows that hold padding alone, and a text without tokens."""
    save_checkpoint(tmp_path / "source", RICH, tiny_models.weights(RICH))
    export(open_checkpoint(tmp_path / "source"), tmp_path / "out", quant="int8-dynamic", verify=False)
    engine = OrtEngine(open_bundle(tmp_path / "out"), threads=1)
    rng = np.random.default_rng(0)
    ids, lengths = rng.integers(0, 97, (4, 11)), np.array([11, 2, 0, 7])
    said = engine.predict(ids, lengths)
    other = np.where(np.arange(11) < lengths[:, None], ids, rng.integers(0, 97, ids.shape))
    np.testing.assert_array_equal(engine.predict(other, lengths), said)
    for row in (0, 1, 3):
        alone = engine.predict(ids[row : row + 1, : lengths[row]])
        np.testing.assert_allclose(alone[0], said[row], rtol=0, atol=2e-6)
    with pytest.raises(ConfigError, match="a model without a decoder has no steps"):
        engine.start(1)
    with pytest.raises(LimitError, match="types must be"):
        engine.predict(ids, lengths, np.full_like(ids, 2))


@pytest.mark.parametrize("head", [PLAIN.head, Tag(5)])
def test_many_texts_are_read_in_runs(head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of a run are of nearly one length, and what is said stands where its text did."""
    config = replace(PLAIN, head=head)
    save_checkpoint(tmp_path / "source", config, tiny_models.weights(config))
    export(open_checkpoint(tmp_path / "source"), tmp_path / "out", quant="fp32", verify=False)
    engine, rng, seen = OrtEngine(open_bundle(tmp_path / "out"), threads=1), np.random.default_rng(0), []
    ids, lengths, types = (
        rng.integers(0, 97, (5, 11)),
        np.array([11, 2, 0, 7, 2]),
        rng.integers(0, 2, (5, 11)),
    )
    whole, run = engine.predict(ids, lengths, types), EncoderSession.run
    monkeypatch.setattr(
        EncoderSession, "run", lambda self, ids, *rest: (seen.append(ids.shape), run(self, ids, *rest))
    )
    for module in (encoder_session, runtime_engine):
        monkeypatch.setattr(module, "TOKENS_PER_RUN", 8)
    said = engine.predict(ids, lengths, types)
    assert seen == [(3, 2), (1, 7), (1, 11)]
    assert said.shape == whole.shape
    real = np.arange(11) < lengths[:, None] if said.ndim == 3 else lengths > 0
    np.testing.assert_allclose(said[real], whole[real], rtol=0, atol=2e-6)
    assert np.isfinite(said).all()


def test_runs_hold_every_row_once() -> None:
    for lengths in ([0], [600], [0, 0, 0], [512, 1, 512], [3] * 400, [*range(60)]):
        made = encoder_session.runs(np.array(lengths))
        assert sorted(np.concatenate(made).tolist()) == [*range(len(lengths))]
        most = encoder_session.TOKENS_PER_RUN
        assert all(len(rows) == 1 or len(rows) * lengths[rows[-1]] <= most for rows in made)
    assert [len(rows) for rows in encoder_session.runs(np.full(32, 64))] == [8] * 4


def reader(folder: Path) -> OrtEngine:
    config = tiny_models.rotary_encoder_decoder()
    save_checkpoint(folder / "source", config, tiny_models.weights(config))
    export(open_checkpoint(folder / "source"), folder / "out", quant="fp32", verify=False)
    return OrtEngine(open_bundle(folder / "out"), threads=1)


def test_of_a_text_without_tokens_nothing_is_read(tmp_path: Path) -> None:
    """Fused attention alone would give such a row a mean of what is hidden."""
    engine = reader(tmp_path)
    spec = NumpyEngine(engine.config, tiny_models.weights(engine.config))
    ids = np.random.default_rng(0).integers(0, 97, (2, 5))
    said = [one.step(ids[:, :3], one.start(2, ids, np.array([5, 0])))[0] for one in (engine, spec)]
    np.testing.assert_allclose(*said, rtol=0, atol=2e-6)


def test_beams_of_one_text_share_what_they_read(tmp_path: Path) -> None:
    """Rows of one text change places without a copy; of another text they are copied."""
    engine = reader(tmp_path)
    ids = np.random.default_rng(0).integers(0, 97, (2, 5))
    with pytest.raises(ConfigError, match="start needs encoder_ids"):
        engine.start(1)
    with pytest.raises(ConfigError, match="predicts step by step"):
        engine.predict(ids)
    cache = engine.start(2, ids).select(np.array([1, 1, 0]))
    state = cache.take()
    memory = state.encoder_kv
    assert memory is not None
    before, kept = [b.pointer for b in memory.buffers], [b.read().copy() for b in memory.buffers]
    memory.buffers[0].read()[0] += 1  # a mark that no copy of row 1 has
    state.permute(np.array([1, 0, 2]), np.zeros(3, np.int64))
    np.testing.assert_array_equal(memory.buffers[0].read()[0], kept[0][0] + 1)
    state.permute(np.array([2, 1, 2]), np.zeros(3, np.int64))
    np.testing.assert_array_equal(memory.buffers[0].read()[0], kept[0][2])
    assert [b.pointer for b in memory.buffers] == before


@pytest.mark.parametrize(
    "make", [tiny_models.encoder, tiny_models.encoder_decoder, tiny_models.rotary_encoder_decoder]
)
def test_every_product_is_observed(make: Any) -> None:
    config = make()
    leaves = dict(flatten(tiny_models.weights(config)))
    found: dict[str, int] = {}

    def seen(names: tuple[str, ...], x: np.ndarray) -> None:
        for name in names:
            axis = int(name.endswith(".table"))
            assert x.shape[1] == leaves[name].shape[axis]
            found[name] = found.get(name, 0) + len(x)

    record(config, leaves.__getitem__, windows=[list(range(20))], on_input=seen)
    wanted = {name for name, shape in parameter_shapes(config).items() if multiplied(name, shape)}
    assert set(found) - {"head.out.weight"} == wanted
    assert set(found.values()) == {20}


def test_an_encoders_graph_is_missing_or_too_many(tmp_path: Path) -> None:
    config = tiny_models.encoder_decoder(layers=1)
    save_checkpoint(tmp_path / "source", config, tiny_models.weights(config))
    out = tmp_path / "out"
    export(open_checkpoint(tmp_path / "source"), out, quant="fp32", target="standard", verify=False)
    graph = (out / "encoder.onnx").read_bytes()
    (out / "encoder.onnx").write_bytes(graph[:-1] + b"?")
    with pytest.raises(BundleError, match=r"encoder\.onnx: its bytes aren't those"):
        open_bundle(out)
    (out / "encoder.onnx").unlink()
    with pytest.raises(BundleError, match=r"encoder\.onnx: No such file"):
        open_bundle(out)

"""int8-static and w8a16 end to end: calibrate, smooth, export, verify, run; codes are the specification's."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import task_models, text_strategies, tiny_models
from helpers.refused import pattern, refused
from helpers.text_strategies import byte_tokenizer
from onnx import TensorProto, helper
from tfm.export.bundle_writer import export
from tfm.export.diagnose.locate import locate
from tfm.export.quantization import calibrate
from tfm.export.quantization.activation_recorder import record
from tfm.export.quantization.calibrate import static_scales
from tfm.export.quantization.plan import Calibration, CalibrationResult, plan
from tfm.refimpl.calibrate import ranges, smooth
from tfm.refimpl.checkpoint.open import Checkpoint, open_checkpoint, save_checkpoint
from tfm.refimpl.config import Classify, Config, Dense, EmbeddingProjection, Pool
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ExportError
from tfm.refimpl.ops import linear as linears
from tfm.refimpl.ops.quant import quantize_columns
from tfm.refimpl.ops.static_quant import static_quantize
from tfm.refimpl.params.parameter_shapes import ParameterShapes
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import flatten, map_leaves
from tfm.runtime.bundle import targets
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.bundle.schemes import SCHEMES, Scheme
from tfm.runtime.progress import silent
from tfm.runtime.verification.leaf_digest import digest
from tfm.runtime.verification.verify import verify

GATED = tiny_models.llama(vocabulary=256, bias=True)
PLAIN = tiny_models.llama(vocabulary=256, bias=True, plain=True, kind="relu", tied=False, kv_heads=6)
MIXTURE = tiny_models.mixture(256)
ENCODER = task_models.config(Classify(3, dense=Dense("tanh")))
INT8, W8A16 = SCHEMES["int8-static"], SCHEMES["w8a16"]
TEXT = "The quick brown fox jumps over the lazy dog, and nobody knows why it has to be so quick. " * 6


def saved(path: Path, config: Config) -> Checkpoint:
    """A checkpoint with channels of very different sizes, as smoothing wants them."""
    rng = np.random.default_rng(5)

    def loud(name: str, leaf: np.ndarray) -> np.ndarray:
        if not name.endswith("_pre.weight"):
            return leaf
        return (leaf * np.exp(rng.standard_normal(leaf.shape))).astype(np.float32)

    save_checkpoint(path / "model", config, map_leaves(loud, tiny_models.weights(config)), byte_tokenizer())
    (path / "text.txt").write_text(TEXT)
    return open_checkpoint(path / "model")


@pytest.mark.parametrize(
    ("config", "quant", "method", "alpha", "most"),
    [
        (GATED, "w8a16", "minmax", 0.5, 0.005),
        pytest.param(PLAIN, "int8-static", "entropy", None, 0.3, marks=pytest.mark.long),
        pytest.param(MIXTURE, "int8-static", "minmax", 0.5, 0.05, marks=pytest.mark.long),
        pytest.param(MIXTURE, "w8a16", "percentile", 0.8, 0.01, marks=pytest.mark.long),
    ],
    ids=["gated w8a16", "plain", "mixture", "mixture w8a16"],
)
def test_static_end_to_end(config: Config, quant, method, alpha: float | None, most: float, tmp_path: Path):
    checkpoint = saved(tmp_path, config)
    stages: set[str] = set()
    calibration = Calibration(tmp_path / "text.txt", method, alpha)
    out = tmp_path / "bundle"
    export(
        checkpoint,
        out,
        target="standard",
        quant=quant,
        calibration=calibration,
        verify=False,
        progress=lambda stage, done, total: stages.add(stage),
    )
    assert any(re.search(pattern("ranges", "activations"), stage) for stage in stages)
    report = verify(out, source=checkpoint.path)
    assert not report.failed
    rows = {row.name: row for row in report.rows}
    assert rows["weights equal the source's"].ok, "smoothing can be read off the bundle"
    assert rows["KL divergence over a text"].figure < most

    bundle = open_bundle(out)
    parts = locate(bundle, np.random.default_rng(5).integers(0, 256, (2, 7)))
    assert len(parts) > 3
    assert not [part for part in parts if not part.ok], "inputs are compared before they are rounded"
    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    kinds = [node.op_type for node in graph.node]
    products = sum(scheme.activations == "static" for scheme in bundle.manifest.schemes.values())
    rounded = products if quant == "w8a16" else 0
    assert kinds.count("QuantizeLinear") == products + rounded
    assert kinds.count("DequantizeLinear") == 2 * products + rounded
    assert {"MatMulInteger", "DynamicQuantizeLinear"}.isdisjoint(kinds)
    assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
    for name, scheme in bundle.manifest.schemes.items():
        leaf = bundle.leaf(name)
        assert scheme.activations == leaf.activations
        if scheme.activations != "static":
            assert name == "embedding.table"
            continue
        assert (leaf.scale > 0).all()
        assert leaf.codes.min() >= 1


@pytest.mark.parametrize("quant", ["int8-static", pytest.param("w8a16", marks=pytest.mark.long)])
def test_codes_in_the_graph_are_the_specifications(quant: str, tmp_path: Path, monkeypatch):
    """The first product's input, read out of the graph on ONNX Runtime, is equal to the integer. So is its
    output, but where a sum is so near to a tie that its last digits decide."""
    checkpoint = saved(tmp_path, GATED)
    out = tmp_path / "bundle"
    calibration = Calibration(tmp_path / "text.txt")
    export(checkpoint, out, target="standard", quant=quant, calibration=calibration, verify=False)
    bundle = open_bundle(out)
    model = onnx.load(out / "model.onnx", load_external_data=False)
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    makers = {name: node for node in model.graph.node for name in node.output}
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    product = next(node for node in products if makers[node.input[0]].input[0] == first.output[0])
    (read,) = (node for node in model.graph.node if product.output[0] in node.input)
    bits = 16 if quant == "w8a16" else 8
    codes = TensorProto.UINT16 if bits == 16 else TensorProto.UINT8
    model.graph.output.append(helper.make_tensor_value_info(first.output[0], codes, None))
    model.graph.output.append(helper.make_tensor_value_info(first.input[0], TensorProto.FLOAT, None))
    made = codes if read.op_type == "QuantizeLinear" else TensorProto.FLOAT
    model.graph.output.append(helper.make_tensor_value_info(read.output[0], made, None))
    onnx.save(model, out / "seen.onnx")
    session = onnxruntime.InferenceSession(out / "seen.onnx", providers=["CPUExecutionProvider"])
    ids = np.random.default_rng(0).integers(0, 256, (2, 7))
    seen: list[np.ndarray] = []
    plain = linears.linear_blocks

    def spy(x, weight):
        seen.append(x)
        return plain(x, weight)

    monkeypatch.setattr(linears, "linear_blocks", spy)
    engine = NumpyEngine(GATED, bundle.params())
    engine.step(ids, engine.start(2))
    feeds = {"tokens": ids, "past": np.zeros(2, np.int64), "at": np.zeros((2, 1), np.int64)}
    for value in session.get_inputs():
        if value.name.startswith(("cos", "sin")):
            feeds[value.name] = np.ones((7, value.shape[1]), np.float32)
        elif value.name.startswith(("k.", "v.")):
            feeds[value.name] = np.zeros((2, value.shape[1], 7, value.shape[3]), np.float32)
    got, product_input, output = session.run([first.output[0], first.input[0], read.output[0]], feeds)
    np.testing.assert_allclose(product_input, seen[0], rtol=1e-5, atol=1e-6)
    leaf = bundle.leaf("decoder.layers.0.attn.wq")
    width = GATED.embedding.width
    scale, zero = np.full(width, leaf.input_scale), np.full(width, leaf.input_zero, np.int32)
    expected = static_quantize(product_input.reshape(-1, width), scale, zero, bits=bits, signed=False)
    np.testing.assert_array_equal(got.reshape(-1, width), expected)
    assert len(np.unique(got)) > 50
    assert (read.op_type == "QuantizeLinear") == (quant == "w8a16")
    if quant == "w8a16":
        assert got.max() > 50000
        value = plain(product_input, leaf)
        steps = np.rint(value / leaf.output_scale).astype(int) + int(leaf.output_zero)
        off = np.abs(steps - output.reshape(value.shape))
        assert off.max() <= 1
        assert (off == 0).mean() > 0.9


@pytest.mark.parametrize(
    "inner", [None, EmbeddingProjection(32, bias=True), EmbeddingProjection(32, late=True)]
)
def test_every_product_is_observed_once_with_what_it_multiplies(inner: EmbeddingProjection | None):
    """The recorded inputs are those of the specification's products, from every window."""
    config = replace(GATED, embedding=replace(GATED.embedding, projection=inner))
    tree = tiny_models.weights(config)
    leaves = dict(flatten(tree))
    ids = np.random.default_rng(0).integers(0, 256, 100).tolist()
    results: dict[tuple[str, ...], list[np.ndarray]] = {}
    windows = [ids[begin : begin + 30] for begin in range(0, 100, 30)]
    record(
        config, leaves.__getitem__, windows=windows, on_input=lambda n, x: results.setdefault(n, []).append(x)
    )
    layers = [f"decoder.layers.{i}." for i in range(2)]
    expected = [
        (*(f"{at}{leaf}" for leaf in group.split()),)
        for at in layers
        for group in ("attn.wq attn.wk attn.wv", "attn.wo", "mlp.gate mlp.up", "mlp.down")
    ]
    if inner is not None:
        expected = [("embedding.project",), *expected, ("head.project",)]
    assert [tuple(names) for names in results] == [*expected, ("embedding.table",)]
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    plain = linears.linear

    def spy(x, weight, bias=None):
        seen.append((x, weight))
        return plain(x, weight, bias)

    with pytest.MonkeyPatch.context() as patch:
        for module in ("attention", "mlp", "embedding", "model", "head"):
            patch.setattr(f"tfm.refimpl.ops.{module}.linear", spy)
        engine = NumpyEngine(config, tree)
        for begin in range(0, 100, 30):
            part = np.array([ids[begin : begin + 30]])
            engine.step(part, engine.start(1), at=np.arange(part.shape[1])[None])
    for names, parts in results.items():
        assert sum(map(len, parts)) == 100
        for name in names:
            same = [x for x, w in seen if w is leaves[name] or w.base is leaves[name]]
            for got, want in zip(parts, same, strict=True):
                np.testing.assert_allclose(got, want.reshape(got.shape), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [GATED, MIXTURE, tiny_models.distant(vocabulary=256), ENCODER])
def test_every_output_is_that_of_its_product(config: Config):
    """Without a bias, and of what was recorded as its input; outputs change nothing in the model."""
    leaves = dict(flatten(tiny_models.weights(config)))
    ids = np.random.default_rng(0).integers(0, config.embedding.vocabulary, (2, 20)).tolist()
    inputs: dict[str, list[np.ndarray]] = {}
    alone: dict[str, list[np.ndarray]] = {}
    outputs: dict[str, list[np.ndarray]] = {}

    def into(seen: dict[str, list[np.ndarray]], names: tuple[str, ...], x: np.ndarray) -> None:
        for name in names:
            seen.setdefault(name, []).append(x)

    record(config, leaves.__getitem__, windows=ids, on_input=partial(into, alone))
    record(
        config,
        leaves.__getitem__,
        windows=ids,
        on_input=partial(into, inputs),
        on_output=lambda name, y: outputs.setdefault(name, []).append(y),
    )
    assert set(outputs) == set(inputs)
    for name, parts in inputs.items():
        leaf = leaves[name].T if name.endswith(".table") else leaves[name]
        for x, y, same in zip(parts, outputs[name], alone[name], strict=True):
            np.testing.assert_array_equal(x, same)
            np.testing.assert_allclose(y.reshape(len(x), -1), x @ leaf, rtol=1e-4, atol=1e-4)


def measured(checkpoint: Checkpoint, calibration: Calibration, scheme: Scheme = INT8) -> CalibrationResult:
    made = plan(checkpoint, scheme, targets.find("standard"))
    return static_scales(checkpoint, made, calibration, scheme, silent)


def test_ranges_of_outputs_are_their_own(tmp_path: Path):
    """Of the smoothed model, in 16 bits; int8-static has none."""
    checkpoint, text = saved(tmp_path, GATED), tmp_path / "text.txt"
    calibration = Calibration(text, "minmax", 0.5)
    assert measured(checkpoint, calibration).outputs == {}
    made = measured(checkpoint, calibration, W8A16)
    assert set(made.inputs) == set(made.outputs)
    seen: dict[str, list[np.ndarray]] = {}
    record(
        GATED,
        lambda name: smooth.smooth_leaf(name, checkpoint.leaf(name), made.factors),
        windows=calibrate._windows(checkpoint, text),
        on_output=lambda name, y: seen.setdefault(name, []).append(y.reshape(-1)),
    )
    for name, parts in seen.items():
        interval = ranges.minmax(None, np.concatenate(parts))
        assert made.outputs[name] == ranges.scale_and_zero_point(interval, bits=16)
        assert made.outputs[name][0] != made.inputs[name][0]
        assert (made.inputs[name][1].dtype, made.outputs[name][1].dtype) == (np.uint16, np.uint16)


def test_ranges_are_of_the_smoothed_model(tmp_path: Path):
    checkpoint = saved(tmp_path, GATED)
    plain = measured(checkpoint, Calibration(tmp_path / "text.txt"))
    smoothed = measured(checkpoint, Calibration(tmp_path / "text.txt", "minmax", 0.5))
    assert set(plain.inputs) == {n for n, s in parameter_shapes(GATED).items() if len(s) == 2}
    assert plain.factors == {}
    assert tuple(smoothed.factors) == ParameterShapes(GATED).smoothing_sites
    for s in smoothed.factors.values():
        assert (np.frexp(s)[0] == 0.5).all()
    x = []
    record(
        GATED,
        lambda name: smooth.smooth_leaf(name, checkpoint.leaf(name), smoothed.factors),
        windows=[list(TEXT.encode())[:1]],
        on_input=lambda names, part: x.append((names, part)),
    )
    scales = {name: float(scale) for name, (scale, _) in smoothed.inputs.items()}
    for names, part in x:
        unsmoothed_scale = ranges.scale_and_zero_point(ranges.minmax(None, part.reshape(-1)))[0]
        assert unsmoothed_scale <= scales[names[0]] * 1.0001


def test_distances_count_for_the_matrices_that_they_share(tmp_path: Path):
    """The range of their input is that of the text and of the distances together."""
    config = tiny_models.distant(vocabulary=256)
    checkpoint, text = saved(tmp_path, config), tmp_path / "text.txt"
    seen: dict[str, list[np.ndarray]] = {}

    def observe(names: tuple[str, ...], x: np.ndarray) -> None:
        for name in names:
            seen.setdefault(name, []).append(x.reshape(-1))

    windows = calibrate._windows(checkpoint, text)
    record(config, checkpoint.leaf, windows=windows, on_input=observe)
    attn = "encoder.layers.0.attn."
    assert len(seen[f"{attn}wq"]) == len(seen[f"{attn}wk"]) == 2 * len(seen[f"{attn}wv"])
    inputs = measured(checkpoint, Calibration(text)).inputs
    both = ranges.minmax(None, np.concatenate(seen[f"{attn}wq"]))
    for name in ("wq", "wk", "wv"):
        assert inputs[attn + name] == ranges.scale_and_zero_point(both), "one range for joined matrices"
    squares = calibrate.importance(checkpoint, silent)
    assert np.array_equal(squares[f"{attn}wq"], squares[f"{attn}wv"]), "of the text"


def refuses(match: str, checkpoint: Checkpoint, out: Path, **options) -> None:
    with refused(ExportError, *match.split()):
        export(checkpoint, out, **({"quant": "int8-static", "target": "standard"} | options))
    assert not out.exists()


def test_missing_and_useless_options_are_named(tmp_path: Path):
    checkpoint, out = saved(tmp_path, GATED), tmp_path / "bundle"
    text = tmp_path / "text.txt"
    good = Calibration(text)
    refuses("calibration text", checkpoint, out)
    refuses("w8a16 quant=int8 kv=float", checkpoint, out, quant="int8", calibration=good)
    refuses("calibration text", checkpoint, out, quant="w8a16")
    refuses("target=standard", checkpoint, out, target="ort-cpu", calibration=good)
    refuses("target=standard", checkpoint, out, quant="w8a16", target="ort-cpu", calibration=good)
    refuses("quant=int8", checkpoint, out, target="ort-cuda", calibration=good)
    for name, data in (("empty", b""), ("bad", b"\xff\xfe text"), ("missing", None)):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        why = "empty" if name == "empty" else "text UTF-8"
        refuses(why, checkpoint, out, calibration=Calibration(tmp_path / name))
    refuses("tokenizer", replace(checkpoint, tokenizer=None), out, calibration=good)
    with refused(ExportError, "calibration.method", "minmax"):
        Calibration(text, "mean")  # pyright: ignore[reportArgumentType]
    with refused(ExportError, "calibration.alpha", "0", "1", "1.5"):
        Calibration(text, "minmax", 1.5)


def test_a_long_text_is_cut(tmp_path: Path, monkeypatch):
    """A long text is cut, also within a character."""
    checkpoint = saved(tmp_path, GATED)
    (tmp_path / "long.txt").write_text("ä" * 5000)
    monkeypatch.setattr(calibrate, "MOST_BYTES", 1001)

    def lengths(*most: int) -> list[int]:
        return [len(window) for window in calibrate._windows(checkpoint, tmp_path / "long.txt", *most)]

    context = GATED.context
    assert lengths() == [context] * (1000 // context) + [1000 % context]
    assert lengths(10, 80) == [10] * 8


def test_an_encoder_is_calibrated_with_special_tokens(tmp_path: Path):
    """Windows of a text have the special tokens around a text."""
    config = replace(task_models.config(Pool("mean")), context=9)
    save_checkpoint(tmp_path / "model", config, tiny_models.weights(config), task_models.WORDS.to_str())
    (tmp_path / "text.txt").write_text("the cat is catting " * 5)
    windows = calibrate._windows(open_checkpoint(tmp_path / "model"), tmp_path / "text.txt")
    first, last = (task_models.WORDS.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    text_ids = task_models.WORDS.encode("the cat is catting " * 5, add_special_tokens=False).ids
    assert [[first, *text_ids[i : i + 7], last] for i in range(0, len(text_ids), 7)] == windows
    with refused(ExportError, "context", "2"):
        calibrate._windows(
            replace(open_checkpoint(tmp_path / "model"), config=replace(config, context=2)),
            tmp_path / "text.txt",
        )


def test_a_decoder_is_calibrated_with_what_comes_before_a_text(tmp_path: Path):
    """Each window begins with it, and is no longer than the context."""
    made = text_strategies.byte_level()
    config = tiny_models.llama(vocabulary=420, context=9)
    save_checkpoint(tmp_path / "model", config, tiny_models.weights(config), made.to_str())
    (tmp_path / "text.txt").write_text("the cat is catting " * 5)
    windows = calibrate._windows(open_checkpoint(tmp_path / "model"), tmp_path / "text.txt")
    text_ids = made.encode("the cat is catting " * 5, add_special_tokens=False).ids
    begin = made.token_to_id("<s>")
    assert windows == [[begin, *text_ids[i : i + 8]] for i in range(0, len(text_ids), 8)]
    assert max(map(len, windows)) == 9


@pytest.mark.parametrize("field", ["input_scale", "input_zero", "output_scale", "output_zero"])
def test_the_scale_of_an_input_is_in_the_hash_of_its_leaf(field: str):
    leaf = quantize_columns(np.ones((3, 2), np.float32))
    leaf = replace(leaf, input_scale=np.array(0.5, np.float32), input_zero=np.array(3, np.uint8))
    leaf = replace(leaf, output_scale=np.array(0.5, np.float32), output_zero=np.array(300, np.uint16))
    other = replace(leaf, **{field: getattr(leaf, field) * 2})
    assert digest(leaf, np.dtype(np.float32)) != digest(other, np.dtype(np.float32))


def test_an_input_factor_is_in_the_hash_of_its_leaf():
    leaf = replace(quantize_columns(np.ones((3, 2), np.float32)), activations="smoothed")
    one, two = (replace(leaf, input_factor=np.array([1, 1, f], np.float32)) for f in (1, 2))
    assert digest(one, np.dtype(np.float32)) != digest(two, np.dtype(np.float32))


def test_an_expert_without_tokens_has_no_range(tmp_path: Path):
    checkpoint = saved(tmp_path, MIXTURE)
    (tmp_path / "text.txt").write_text("a")
    with refused(ExportError, "token", "text", "decoder.layers.0.mlp.experts", "gate"):
        measured(checkpoint, Calibration(tmp_path / "text.txt"))

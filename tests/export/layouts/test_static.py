"""Fixed shapes: each axis has its size, tokens are the bundle's, and mobile runtimes take the graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from helpers import tiny_models
from helpers.text_strategies import byte_tokenizer
from onnxruntime.tools.mobile_helpers import usability_checker
from tfm.export.bundle_writer import export
from tfm.export.layouts import static
from tfm.export.layouts.convert import convert
from tfm.export.layouts.static import Sizes
from tfm.export.quantization.plan import Calibration
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import Config
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.errors import ExportError
from tfm.refimpl.ops.model import position_tables
from tfm.runtime.bundle import targets
from tfm.runtime.bundle.bundle import Bundle, open_bundle
from tfm.runtime.ort.engine import OrtEngine

DECODER = tiny_models.llama(vocabulary=256, context=64)
ENCODER = tiny_models.encoder(vocabulary=256)
SIZES = Sizes(batch=1, time=4, capacity=24)
PROMPT, COUNT = [5, 170, 3, 88, 41, 9], 7
TEXT = "Was it a car or a cat that the old man saw? Nobody knew, and nobody had asked. " * 8


def made(folder: Path, config: Config, quant: str) -> Bundle:
    save_checkpoint(folder / "model", config, tiny_models.weights(config, seed=4), byte_tokenizer())
    (folder / "text.txt").write_text(TEXT)
    calibration = Calibration(folder / "text.txt", "minmax", None) if quant == "int8-static" else None
    options = {"target": "standard", "quant": quant, "calibration": calibration, "verify": False}
    export(open_checkpoint(folder / "model"), folder / "bundle", **options)
    return open_bundle(folder / "bundle")


def fixed(bundle: Bundle, sizes: Sizes, out: Path) -> Path:
    convert(bundle.path, out, static.layout(sizes))
    model = onnx.load(out / "model.onnx", load_external_data=False)
    onnx.checker.check_model(out / "model.onnx", full_check=True)
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    named = {value.name: value.type.tensor_type.shape.dim for value in values}
    assert {name for node in model.graph.node for name in node.output if name} <= named.keys()
    assert all(dim.HasField("dim_value") for dims in named.values() for dim in dims)
    assert "Shape" not in {node.op_type for node in model.graph.node}
    return out / "model.onnx"


def greedy(model: Path, config: Config, sizes: Sizes) -> list[int]:
    """Tokens after the prompt, `time` places a run: what fills up a run is written over by the next."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    tables = position_tables(np.arange(sizes.capacity), config=config)
    feeds = {
        f"{side}.{i}": getattr(tables[rope], side).astype(np.float32)
        for i, rope in enumerate(config.ropes)
        for side in ("cos", "sin")
    }
    cache = {
        p.name: np.zeros(p.shape, np.float32) for p in session.get_inputs() if p.name[:2] in ("k.", "v.")
    }
    past, new, found = 0, list(PROMPT), []
    while len(found) < COUNT:
        run, new = new[: sizes.time], new[sizes.time :]
        ids = np.array([run + [0] * (sizes.time - len(run))])
        at = {"tokens": ids, "past": np.array([past]), "at": np.array([[len(run) - 1]])}
        logits, *arrays = session.run(None, {**at, **feeds, **cache})
        cache, past = dict(zip(cache, arrays, strict=True)), past + len(run)
        if not new:
            new = [int(np.asarray(logits)[0, -1].argmax())]
            found += new
    return found


def nnapi(model: Path) -> set[str]:
    """What keeps nodes from NNAPI, by ONNX Runtime's own checker: operators alone, no shape and no rank."""
    shapes = usability_checker.ModelProtoWithShapeInfo(model).model_with_shape_info
    found = usability_checker.check_nnapi_partitions(shapes, True)
    parts, nodes = found.num_partitions, f"{found.num_supported_nodes} of {found.num_nodes} nodes"
    print(f"NNAPI: {parts} partitions, {nodes}")  # noqa: T201  (pytest -s shows it)
    assert not found.nodes_unsupported_due_to_dynamic_input
    assert not found.num_unsupported_nodes_due_to_rank
    return {name.removeprefix("ai.onnx:") for name in found.unsupported_ops}


@pytest.mark.parametrize("quant", [pytest.param("int8", marks=pytest.mark.long), "int8-static"])
def test_a_decoder(quant: str, tmp_path: Path):
    """Its cache, mask and places aren't for NNAPI, whatever the quantization: they cut it into parts."""
    bundle = made(tmp_path, DECODER, quant)
    model = fixed(bundle, SIZES, tmp_path / "fixed")
    expected = list(generate(OrtEngine(bundle), GeneratedSequence(PROMPT, max_new_tokens=COUNT)))
    assert greedy(model, DECODER, SIZES) == expected
    assert nnapi(model) == {"Expand", "GatherElements", "LessOrEqual", "Not", "ScatterElements", "Where"}


@pytest.mark.long
@pytest.mark.parametrize("quant", ["fp32", "int8-static"])
def test_an_encoder(quant: str, tmp_path: Path):
    bundle, sizes = made(tmp_path, ENCODER, quant), Sizes(batch=2, time=9)
    model = fixed(bundle, sizes, tmp_path / "fixed")
    ids, lengths = np.array([[5, 170, 3, 88, 41, 9, 7, 8, 30], [4, 90] + [0] * 7]), np.array([9, 2])
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {"tokens": ids, "lengths": lengths, "token_types": np.zeros_like(ids)}
    (got,) = session.run(None, {port.name: feeds[port.name] for port in session.get_inputs()})
    expected = OrtEngine(bundle).predict(ids, lengths)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(np.asarray(got)[row, :length], expected[row, :length], atol=1e-5)
    assert nnapi(model) == {"And", "Greater", "LayerNormalization", "Not", "Where"}


REFUSED = {
    "export for target=standard": (DECODER, "ort-cpu", SIZES),
    "reads an encoder": (tiny_models.encoder_decoder(), "standard", SIZES),
    "at least 1": (DECODER, "standard", Sizes(0, 4, 24)),
    "must have its capacity": (DECODER, "standard", Sizes(1, 4)),
    "may be the context, 64, got 65": (DECODER, "standard", Sizes(1, 4, 65)),
    "time (by capacity) may be 24, got 25": (DECODER, "standard", Sizes(1, 25, 24)),
    "leave it out": (ENCODER, "standard", Sizes(1, 4, 24)),
    "time may be": (ENCODER, "standard", Sizes(1, 10**4)),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_has_no_fixed_shapes_is_refused(words: str):
    config, target, sizes = REFUSED[words]
    assert words in (static.layout(sizes).refusal(config, targets.find(target)) or "")


def test_an_axis_without_a_size_is_an_error(tmp_path: Path):
    """Of a graph that was changed, or of a model whose axes nobody thought of."""
    kind, shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", "more"])
    x, y = ir.Value(name="x", type=kind, shape=shape), ir.Value(name="y", type=kind, shape=shape)
    node = ir.Node("", "Relu", [x], outputs=[y])
    model = ir.Model(ir.Graph([x], [y], nodes=[node], opset_imports={"": 21}, name="g"), ir_version=10)
    with pytest.raises(ExportError, match="y has no fixed shape"):
        static.fix(model, {"batch": 1}, {})

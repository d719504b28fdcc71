"""Fixed shapes: each axis has its size, tokens are the bundle's, and mobile runtimes take the graph."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from helpers import peers, tiny_models
from helpers.refused import refused
from helpers.text_strategies import byte_tokenizer
from tfm.export.bundle_writer import export
from tfm.export.layouts import mobile, qnn, static
from tfm.export.layouts.convert import convert
from tfm.export.layouts.static import Sizes
from tfm.export.quantization.plan import Calibration
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.config import Config
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ExportError
from tfm.refimpl.ops.position_tables import position_tables
from tfm.refimpl.params.tree import map_leaves
from tfm.runtime import hardware
from tfm.runtime.bundle import targets
from tfm.runtime.bundle.bundle import Bundle, open_bundle
from tfm.runtime.bundle.schemes import SCHEMES
from tfm.runtime.ort.engine import OrtEngine

DECODER = tiny_models.llama(vocabulary=256, context=64)
ENCODER = tiny_models.encoder(vocabulary=256)
SIZES = Sizes(batch=1, time=4, capacity=24)
PROMPT, COUNT = [5, 170, 3, 88, 41, 9], 7
TEXT = "Was it a car or a cat that the old man saw? Nobody knew, and nobody had asked. " * 8


def made(folder: Path, config: Config, quant: str) -> Bundle:
    save_checkpoint(folder / "model", config, tiny_models.weights(config, seed=4), byte_tokenizer())
    (folder / "text.txt").write_text(TEXT)
    calibration = Calibration(folder / "text.txt", "minmax", None) if SCHEMES[quant].calibrated else None
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


def tables(config: Config, sizes: Sizes) -> dict[str, np.ndarray]:
    """The graph's inputs of cosines and sines."""
    found = position_tables(np.arange(sizes.capacity), config=config)
    return {
        f"{side}.{i}": getattr(found[rope], side).astype(np.float32)
        for i, rope in enumerate(config.ropes)
        for side in ("cos", "sin")
    }


def greedy(model: Path, config: Config, sizes: Sizes) -> list[int]:
    """Tokens after the prompt, `time` places a run: what fills up a run is written over by the next."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = tables(config, sizes)
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


def parts(model: Path, name: str) -> mobile.Parts:
    """What ONNX Runtime's checker for mobile says of a framework."""
    return mobile.partitions(ir.load(model))[name]


def casts_of_bytes(model: Path) -> list[str]:
    """Casts of unsigned bytes to floats."""
    return [
        str(node.name)
        for node in ir.load(model).graph
        if node.op_type == "Cast"
        and node.inputs[0].dtype == ir.DataType.UINT8
        and node.outputs[0].dtype == ir.DataType.FLOAT
    ]


LONG = {"marks": pytest.mark.long}


@pytest.mark.parametrize("quant", [pytest.param("int8", **LONG), pytest.param("fp32", **LONG), "w8a16"])
def test_a_decoder(quant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also on a processor whose products of bytes saturate."""
    monkeypatch.setattr(hardware, "saturates", lambda: True)
    bundle = made(tmp_path, DECODER, quant)
    model = fixed(bundle, SIZES, tmp_path / "fixed")
    expected = list(generate(OrtEngine(bundle), GeneratedSequence(PROMPT, max_new_tokens=COUNT)))
    assert greedy(model, DECODER, SIZES) == expected
    assert_parts(model, quant)


def assert_parts(model: Path, quant: str) -> None:
    """One for NNAPI, with all nodes; one for CoreML, where only tokens are looked up outside; Qualcomm's
    provider documents all, and leaves codes to the CPU but those of products whose outputs are codes too."""
    reading = qnn.read(ir.load(model))
    assert not reading.refused
    weights = sum(name.endswith(".output_zero") for name in ir.load(model).graph.initializers)
    assert (reading.of_integers, reading.products > 9) == (weights, True)
    assert (weights > 9) == (quant == "w8a16")
    assert bool(reading.on_cpu) == (quant != "fp32")
    assert not casts_of_bytes(model)
    android, apple = parts(model, "NNAPI"), parts(model, "CoreML")
    assert (android.count, android.nodes, android.advice) == (1, android.all_nodes, "yes")
    if quant == "fp32":
        assert (apple.count, apple.others, apple.advice) == (1, ("Gather",), "yes")
    else:  # CoreML has no codes
        assert "DequantizeLinear" in apple.others
    if SCHEMES[quant].calibrated:
        assert apple.advice == "no"


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
    assert_parts(model, quant)


def test_a_model_that_hears(tmp_path: Path):
    """Its encoder's keys and values go to its decoder, of which each axis has its size too."""
    config = tiny_models.hearing(vocabulary=256)
    bundle, sizes = made(tmp_path, config, "fp32"), Sizes(batch=2, time=3, capacity=8)
    fixed(bundle, sizes, tmp_path / "fixed")
    encoder, decoder = (
        ort.InferenceSession(tmp_path / "fixed" / name, providers=["CPUExecutionProvider"])
        for name in ("encoder.onnx", "model.onnx")
    )
    frames = np.random.default_rng(0).normal(size=(2, 10, 6)).astype(np.float32)
    feeds: dict[str, object] = {port.name: np.zeros(port.shape, np.float32) for port in decoder.get_inputs()}
    heard = encoder.run(None, {"frames": frames})
    feeds |= dict(zip((port.name for port in encoder.get_outputs()), heard, strict=True))
    ids, at = np.array([[5, 170, 3], [9, 4, 41]]), np.array([[2], [1]])
    feeds |= {"tokens": ids, "past": np.zeros(2, np.int64), "at": at, "encoder_lengths": np.array([5, 5])}
    logits = decoder.run(["logits"], feeds)[0]
    engine = NumpyEngine(config, tiny_models.weights(config, seed=4))
    expected, _ = engine.step(ids, engine.start(2, frames), at=at)
    np.testing.assert_allclose(np.asarray(logits), expected, atol=1e-5)
    for name in ("encoder.onnx", "model.onnx"):
        assert not qnn.read(ir.load(tmp_path / "fixed" / name)).refused


ON_QNN = """
    import json, sys
    import numpy as np
    import onnxruntime as ort
    import onnxruntime_qnn as qnn

    job = json.load(sys.stdin)
    ort.register_execution_provider_library("QNN", qnn.get_library_path())
    device = next(device for device in ort.get_ep_devices() if device.ep_name == "QNN")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # Compiled for a Snapdragon 8 Gen 3, and run by Qualcomm's simulator of its NPU, in float16.
    options.add_session_config_entry("ep.context_enable", "1")
    options.add_session_config_entry("ep.context_file_path", job["compiled"])
    chip = {"backend_path": qnn.get_qnn_htp_path(), "htp_arch": "75", "soc_model": "57"}
    options.add_provider_for_devices([device], chip)
    session = ort.InferenceSession(job["model"], options)
    feeds = dict(np.load(job["feeds"]))
    np.save(job["output"], session.run(None, feeds)[0])
    parts = session.get_provider_graph_assignment_info()
    print(json.dumps([node.op_type for part in parts if part.ep_name != "QNN" for node in part.get_nodes()]))
"""


@pytest.mark.peers
@pytest.mark.parametrize("quant", ["fp32", "int8", "int8-static", "w8a16"])
def test_what_qualcomms_npu_takes(quant: str, tmp_path: Path, onnxruntime_qnn: Path):
    """By its simulator, which the package for x86-64 has: all of a float graph. Of codes it leaves to the CPU
    what `doctor` says; numbers are those of the CPU but for float16, which adds up in another order. A weight
    whose product is one of floats is made floats on the CPU: of w8a16 none is.
    """
    model = fixed(made(tmp_path, DECODER, quant), SIZES, tmp_path / "fixed")
    ids, at = np.array([PROMPT[: SIZES.time]]), np.array([[2]])
    feeds = {"tokens": ids, "past": np.array([0]), "at": at}
    feeds |= tables(DECODER, SIZES)
    for port in onnx.load(model, load_external_data=False).graph.input:
        shape = [dim.dim_value for dim in port.type.tensor_type.shape.dim]
        feeds.setdefault(port.name, np.zeros(shape, np.float32))
    np.savez(tmp_path / "feeds.npz", **feeds)
    names = ("compiled.onnx", "feeds.npz", "output.npy")
    files = {name.split(".")[0]: str(tmp_path / name) for name in names}
    said = peers.run([onnxruntime_qnn, "-c", textwrap.dedent(ON_QNN)], {"model": str(model), **files})
    left = Counter(json.loads(said.splitlines()[-1]))
    assert tuple(sorted(left.items())) == qnn.read(ir.load(model)).on_cpu
    assert quant != "w8a16" or left["DequantizeLinear"] == 1, "all but that of the logits"
    on_cpu = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).run(["logits"], feeds)[0]
    exact, half = (specified(dtype, ids, at) for dtype in (np.float64, np.float16))
    most = 4 * np.abs(half - exact).max()
    if quant == "int8-static":  # where float16 moves an input to its next code, that is as far as codes are
        most = 2 * np.abs(np.asarray(on_cpu) - exact).max()
    assert np.abs(np.load(tmp_path / "output.npy") - np.asarray(on_cpu)).max() < most


@pytest.fixture(scope="module")
def onnxruntime_qnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with Qualcomm's provider."""
    return peers.python_with(tmp_path_factory.mktemp("qnn") / "environment", "onnxruntime-qnn")


def specified(dtype: type, ids: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The specification's logits in a type of floats."""
    weights = map_leaves(lambda _, leaf: leaf.astype(dtype), tiny_models.weights(DECODER, seed=4))
    engine = NumpyEngine(DECODER, weights)
    return engine.step(ids, engine.start(1), at=at)[0].astype(np.float64)


REFUSED = {
    "export for target=standard": (DECODER, "ort-cpu", SIZES),
    "reads the samples of a sound": (tiny_models.writing(), "standard", Sizes(1, 4)),
    "samples of a sound": (tiny_models.spelling(), "standard", Sizes(1, 4)),
    "reads an encoder": (tiny_models.encoder_decoder(), "standard", SIZES),
    "at least 1": (DECODER, "standard", Sizes(0, 4, 24)),
    "capacity is missing": (DECODER, "standard", Sizes(1, 4)),
    "may be at most the context (64 tokens), got 65": (DECODER, "standard", Sizes(1, 4, 65)),
    "time (because of capacity) may be at most 24 tokens, got 25": (DECODER, "standard", Sizes(1, 25, 24)),
    "leave out capacity": (ENCODER, "standard", Sizes(1, 4, 24)),
    "time may be at most": (ENCODER, "standard", Sizes(1, 10**4)),
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
    with refused(ExportError, "y", "shape"):
        static.fix(model, {"batch": 1}, {})

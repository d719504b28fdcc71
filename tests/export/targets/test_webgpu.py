"""ONNX Runtime's WebGPU provider computes bundles with blocks, in float32 and float16.

Over a Vulkan in software, as tests have no GPU.
"""

from __future__ import annotations

import json
import subprocess
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import peers, tiny_models, vulkan
from helpers.exported import exported
from onnx import TensorProto, helper, numpy_helper
from tfm.refimpl.ops.position_tables import position_tables
from tfm.runtime.bundle.bundle import Bundle
from tfm.runtime.verification import golden

pytestmark = [pytest.mark.peers, pytest.mark.vulkan]
CONFIG = tiny_models.llama(vocabulary=128, width=64, heads=8, kv_heads=4, mlp=96, context=64)
ON_WEBGPU = """
    import json, sys
    import numpy as np
    import onnxruntime as ort
    import onnxruntime_ep_webgpu as webgpu

    model, feeds, output = sys.argv[1:]
    ort.register_execution_provider_library("webgpu", webgpu.get_library_path())
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling, options.profile_file_prefix = True, output
    device = next(one for one in ort.get_ep_devices() if one.ep_name == webgpu.get_ep_name())
    options.add_provider_for_devices([device], {})
    session = ort.InferenceSession(model, options)
    np.save(output, session.run(["logits"], dict(np.load(feeds)))[0])
    with open(session.end_profiling()) as file:
        ran = [event["args"] for event in json.load(file) if event.get("cat") == "Node"]
    print(json.dumps([(one["provider"], one["op_name"]) for one in ran if "provider" in one]))
"""
# All that a step computes for each token. Sizes, and minima of masks, may be the processor's.
HEAVY = {"MatMulNBits", "GroupQueryAttention", "RMSNormalization"}


def feeds(bundle: Bundle, expected: golden.Golden) -> dict[str, np.ndarray]:
    """The golden tokens over an empty cache, of whose rows each has the same number with its padding."""
    rows, time = expected.tokens.shape
    tables = position_tables(np.arange(time), config=CONFIG)[CONFIG.ropes[0]]
    known = {
        "tokens": expected.tokens,
        "past": np.zeros(rows, np.int64),
        "at": np.tile(np.arange(time), (rows, 1)),
        "seqlens": np.full(rows, time - 1, np.int32),
        "total": np.array(time, np.int32),
        "cos.0": tables.cos.astype(bundle.dtype),
        "sin.0": tables.sin.astype(bundle.dtype),
    }
    sizes = {"batch": rows, "capacity": time}
    (graph,) = bundle.graphs
    for name, axes, _ in graph.inputs:
        if name not in known:
            known[name] = np.zeros([sizes.get(axis, axis) for axis in axes], bundle.dtype)
    return {name: known[name] for name, *_ in graph.inputs}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return peers.python_over(tmp_path_factory.mktemp("webgpu"), "onnxruntime-ep-webgpu")


def computed(
    python: Path, model: Path, given: dict[str, np.ndarray], folder: Path
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """The output `logits` of a model, and the provider and the operator of each node that ran."""
    np.savez(folder / "feeds.npz", **given)
    done = subprocess.run(
        [python, "-c", textwrap.dedent(ON_WEBGPU), model, folder / "feeds.npz", folder / "logits.npy"],
        env=vulkan.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(folder / "logits.npy").astype(np.float64), json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("target", "quant", "dtype"), [("ort-cuda", "int4", "float16"), ("ort-cpu", "int8", "float32")]
)
def test_the_golden_check_passes(python: Path, tmp_path: Path, target: str, quant: str, dtype: str):
    bundle = exported(tmp_path, CONFIG, seed=5, target=target, quant=quant)
    assert bundle.dtype == dtype
    expected = golden.load(bundle)
    logits, ran = computed(python, bundle.path / "model.onnx", feeds(bundle, expected), tmp_path)
    # A graph for ort-cpu looks rows of bytes up by Gather, which is the processor's there.
    heavy = HEAVY if target == "ort-cpu" else HEAVY | {"GatherBlockQuantized"}
    assert {operator for _, operator in ran} > heavy
    assert {operator for provider, operator in ran if provider != "WebGpuExecutionProvider"}.isdisjoint(heavy)
    real = np.concatenate([row[:length] for row, length in zip(logits, expected.lengths, strict=True)])
    # It rounds inputs where a graph lets it, as one for ort-cpu does.
    assert np.abs(expected.view(real) - expected.own.logits).max() <= expected.own.budget


def test_products_in_float16_add_up_in_float16(python: Path, tmp_path: Path):
    """Which is why RUNTIMES.md has no `fp16` for it: float32 would have 0.0002 here."""
    rng, length = np.random.default_rng(0), 576
    x = rng.normal(size=(1, 24, length)).astype(np.float16)
    weight = (rng.normal(size=(length, 128)) / length**0.5).astype(np.float16)
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape)
        for name, shape in (("x", x.shape), ("logits", (1, 24, 128)))
    ]
    product = helper.make_node("MatMul", ["x", "w"], ["logits"])
    graph = helper.make_graph([product], "g", ports[:1], ports[1:], [numpy_helper.from_array(weight, "w")])
    opset = helper.make_opsetid("", 21)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), tmp_path / "model.onnx")
    product, ran = computed(python, tmp_path / "model.onnx", {"x": x}, tmp_path)
    assert ("WebGpuExecutionProvider", "MatMul") in map(tuple, ran)
    exact = x.astype(np.float64) @ weight.astype(np.float64)
    assert golden.rms(product, exact) / golden.rms(exact, np.zeros_like(exact)) > 0.002

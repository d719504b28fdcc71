"""A table that is looked up and multiplied with is one initializer: ONNX Runtime's own format has it once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from helpers import tiny_models
from helpers.kept_blocks import natives
from helpers.text_strategies import byte_tokenizer
from tfm.export.bundle_writer import export
from tfm.export.graph.shared_tables import read_once
from tfm.export.quantization.plan import Calibration
from tfm.refimpl.checkpoint.open import open_checkpoint, save_checkpoint
from tfm.refimpl.checkpoint.weights.loader import Leaves
from tfm.runtime.bundle.plan import Tensor

ROWS, BLOCK, COUNT = 7, 32, 3
WIDTH = BLOCK * COUNT


def looked_up_and_multiplied(bits: int, *, zeros: bool, shared: bool) -> tuple[ir.Model, dict[str, Tensor]]:
    """Rows of a random table, and a product with it or with another one of its shape."""
    rng, blob = np.random.default_rng(bits), BLOCK * bits // 8
    arrays = {
        "t.packed": rng.integers(0, 256, (ROWS, COUNT * blob), dtype=np.uint8),
        "t.scale": rng.normal(size=(ROWS, COUNT)).astype(np.float32),
        "t.zero": rng.integers(0, 256, (ROWS, -(-COUNT * bits // 8)), dtype=np.uint8),
        "other.packed": rng.integers(0, 256, (ROWS, COUNT, blob), dtype=np.uint8),
    }
    arrays = {name: array for name, array in arrays.items() if zeros or name != "t.zero"}
    stored = {n: Tensor(str(a.dtype), a.shape, 0, a.nbytes) for n, a in arrays.items()}
    view = f"t.packed.{ROWS}x{COUNT}x{blob}"
    arrays[view] = arrays["t.packed"].reshape(ROWS, COUNT, blob)
    weights = {
        n: ir.Value(
            name=n, shape=ir.Shape(a.shape), type=ir.TensorType(ir.DataType.from_numpy(a.dtype)),
            const_value=ir.tensor(a, name=n),
        )
        for n, a in arrays.items()
    }  # fmt: skip
    ids = ir.Value(name="ids", shape=ir.Shape(["B", "T"]), type=ir.TensorType(ir.DataType.INT64))
    x = ir.Value(name="x", shape=ir.Shape(["B", "T", WIDTH]), type=ir.TensorType(ir.DataType.FLOAT))
    zero = [weights["t.zero"]] if zeros else []
    axes = {"bits": bits, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 1}
    lookup = ir.node(
        "GatherBlockQuantized", [weights["t.packed"], ids, weights["t.scale"], *zero], axes,
        domain="com.microsoft",
    )  # fmt: skip
    sizes = {"K": WIDTH, "N": ROWS, "bits": bits, "block_size": BLOCK}
    blocks = weights[view if shared else "other.packed"]
    product = ir.node("MatMulNBits", [x, blocks, weights["t.scale"], *zero], sizes, domain="com.microsoft")
    outputs = []
    for node, name, size in ((lookup, "rows", WIDTH), (product, "y", ROWS)):
        (value,) = node.outputs
        value.name, value.shape = name, ir.Shape(["B", "T", size])
        value.type = ir.TensorType(ir.DataType.FLOAT)
        outputs.append(value)
    opsets = {"": 23, "com.microsoft": 1}
    read = [value for value in weights.values() if value.uses()]
    graph = ir.Graph(
        [ids, x], outputs, nodes=[lookup, product], initializers=read, name="g", opset_imports=opsets
    )
    return ir.Model(graph, ir_version=10), stored


def outputs(model: ir.Model) -> list[np.ndarray]:
    ids = np.array([[3, 0, 6], [6, 5, 3]])
    x = np.random.default_rng(1).normal(size=(2, 3, WIDTH)).astype(np.float32)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    return [np.asarray(array) for array in session.run(None, {"ids": ids, "x": x})]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", [True, False])
def test_rows_have_the_bits_of_the_operator(bits: int, zeros: bool) -> None:
    model, stored = looked_up_and_multiplied(bits, zeros=zeros, shared=True)
    once = read_once(model, {}, stored)
    operators = {node.op_type for node in once.graph}
    assert "GatherBlockQuantized" not in operators
    large = {name for name, value in once.graph.initializers.items() if value.const_value.size > 4}
    assert large == {
        "t.scale",
        f"t.packed.{ROWS}x{COUNT}x{BLOCK * bits // 8}",
        *(["t.zero"] if zeros else []),
    }
    assert all(value.shape is not None and value.type for node in once.graph for value in node.outputs)
    for got, expected in zip(outputs(once), outputs(model), strict=True):
        assert np.array_equal(got, expected)


def test_a_table_that_no_product_reads_is_looked_up_by_the_operator() -> None:
    model, stored = looked_up_and_multiplied(8, zeros=False, shared=False)
    assert read_once(model, {}, stored) is model


CASES = [("ort-cpu", quant, 8) for quant in ("int4", "int8-dynamic", "keep")] + [("ort-cpu", "int4", 4)]
CASES += [("standard", quant, 8) for quant in ("fp16", "int4", "int8-static")]
USUAL = ("ort-cpu", "int4", 8)


@pytest.mark.parametrize(
    ("target", "quant", "table_bits"),
    [pytest.param(*case, marks=() if case == USUAL else pytest.mark.long) for case in CASES],
)
def test_onnx_runtimes_format_isnt_larger(
    tmp_path: Path, target: str, quant: str, table_bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `standard` without optimizations, which would store transposed tables, and codes of 4 bits in 8."""
    if quant == "keep":
        monkeypatch.setattr(Leaves, "native", natives({"table": (True, 4), "wq": (False, 8)}))
    config = tiny_models.llama(layers=1, vocabulary=4096, width=64)
    save_checkpoint(tmp_path / "model", config, tiny_models.weights(config, seed=2), byte_tokenizer())
    (tmp_path / "text.txt").write_text("a text to choose scales by " * 16)
    calibration = Calibration(tmp_path / "text.txt", "minmax", None) if quant == "int8-static" else None
    checkpoint, bundle = open_checkpoint(tmp_path / "model"), tmp_path / "bundle"
    options = {"table_bits": table_bits, "calibration": calibration, "verify": False}
    export(checkpoint, bundle, target=target, quant=quant, **options)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    if target == "standard":
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    ort.InferenceSession(bundle / "model.onnx", options)
    files = [file for file in bundle.rglob("*") if file.is_file() and not file.name.startswith("kernels.")]
    assert (tmp_path / "model.ort").stat().st_size <= sum(file.stat().st_size for file in files)

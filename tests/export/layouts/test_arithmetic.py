"""Comparisons, choices and computed places as arithmetic give what the operators gave."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common
import onnxruntime as ort
import pytest
from onnx import parser
from tfm.export.layouts import arithmetic

RNG = np.random.default_rng(7)
# Batch, heads, rows of a cache, new rows and the size of one are all different.
ARRAYS = {
    "a": np.array([[-3, 0, 2, 5], [1, 1, 4, -1], [0, 7, 2, 3]]),
    "b": np.array([[-3, 1, 1, 5], [2, 0, 4, -2], [9, 7, -2, 3]]),
    "x": RNG.standard_normal((3, 4)).astype(np.float32),
    "cache": RNG.standard_normal((2, 3, 7, 5)).astype(np.float32),
    "new": RNG.standard_normal((2, 3, 4, 5)).astype(np.float32),
    "at": np.array([[[[2], [3], [4], [5]]], [[[0], [1], [2], [6]]]]),
    "rows": np.array([[2, 0], [1, 1]]),
    "w": RNG.standard_normal(4).astype(np.float32),
}
INPUTS = (
    "int64[3,4] a, int64[3,4] b, float[3,4] x, float[2,3,7,5] cache, float[2,3,4,5] new, int64[2,1,4,1] at, "
    "int64[2,2] rows, float[4] w"
)
WEIGHTS = (
    "float fill = {-3.4e38}, float half = {0.5}, int64 two = {2}, int64[4] shape = {2, 3, 4, 5}, "
    "int64[3] tall = {3, 4, 1}, "
    "bool[1,4] odd = {1, 0, 1, 0}"
)


def run(nodes: str, *, rewritten: bool) -> tuple[np.ndarray, set[str]]:
    """What a graph of these nodes gives, and its operators, as it is or written as arithmetic."""
    text = f'<ir_version: 10, opset_import: ["": 21]> g ({INPUTS}) => (y) <{WEIGHTS}> {{ {nodes} }}'
    model = ir.from_proto(parser.parse_model(text))
    for i, node in enumerate(model.graph):
        node.name = f"node{i}"
    ir.passes.common.ShapeInferencePass()(model)
    if rewritten:
        arithmetic.rewrite(model)
        ir.passes.common.RemoveUnusedNodesPass()(model)
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, ARRAYS)[0]), {node.op_type for node in model.graph}


COMPARED = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
CHOSEN = "y = Where(c, x, half)"
WRITTEN = {
    **{name: f"c = {name}(a, b) {CHOSEN}" for name in COMPARED},
    "not": f"d = Less(a, b) c = Not(d) {CHOSEN}",
    "and": f"d = Less(a, b) e = Equal(a, b) n = Not(e) c = And(d, n) {CHOSEN}",
    "or": f"d = Less(a, b) e = Equal(a, b) c = Or(d, e) {CHOSEN}",
    "constant booleans": f"d = Less(a, b) c = Or(d, odd) {CHOSEN}",
    "moved booleans": f"d = Less(a, b) e = Transpose(d) c = Transpose(e) {CHOSEN}",
    "half floats": "c = Less(a, b) h = Cast <to = 10>(x) z = Where(c, h, h) y = Cast <to = 1>(z)",
    "masked scores": "c = Less(a, b) z = Where(c, fill, x) y = Softmax(z)",
    "rows of a table": "i = Add(rows, rows) j = Sub(i, rows) y = Gather(x, j)",
    "rows of each": "i = Expand(at, shape) y = GatherElements <axis = 2>(cache, i)",
    "rows written": "i = Expand(at, shape) y = ScatterElements <axis = 2>(cache, i, new)",
    "numbers repeated": "z = Reshape(x, tall) y = Expand(z, shape)",
    "norm": "y = LayerNormalization <epsilon = 0.1>(x, w, w)",
    "norm without shift": "y = LayerNormalization(x, w)",
}


@pytest.mark.parametrize("name", WRITTEN)
def test_arithmetic_gives_the_same(name: str):
    expected, before = run(WRITTEN[name], rewritten=False)
    got, after = run(WRITTEN[name], rewritten=True)
    kept = {"Add", "Cast", "Softmax", "Sub", "Transpose"}
    assert after <= kept | {"Clip", "Div", "MatMul", "Max", "Mul", "Pow", "ReduceMean", "Reshape", "Sqrt"}
    assert before - kept
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)
    assert np.ptp(got) > 0


LEFT = {
    "tokens": "y = Gather(x, rows)",
    "floats are compared": "c = Less(x, half) y = Where(c, x, half)",
    "whole numbers are chosen": "c = Less(a, b) y = Where(c, a, b)",
    "something else reads a boolean": "n = IsNaN(x) d = Less(a, b) c = Or(d, n) y = Where(c, x, half)",
    "another axis": "k = Mod(at, two) i = Expand(k, shape) y = GatherElements <axis = 3>(cache, i)",
    "sums": 'i = Expand(at, shape) y = ScatterElements <axis = 2, reduction = "add">(cache, i, new)',
    "places that differ in a row": "i = Cast <to = 7>(new) y = GatherElements <axis = 2>(cache, i)",
}


@pytest.mark.parametrize("name", LEFT)
def test_what_has_no_arithmetic_here_is_left(name: str):
    expected, before = run(LEFT[name], rewritten=False)
    got, after = run(LEFT[name], rewritten=True)
    assert before == after
    np.testing.assert_array_equal(got, expected)

"""What Qualcomm's provider doesn't take of a graph is named, and its products of integers are counted."""

from __future__ import annotations

import re

import onnx_ir as ir
import pytest
from onnx import parser
from onnx_ir.passes import common
from tfm.export.layouts import qnn

CODES = """
    a = QuantizeLinear(x, scale, zero)
    b = DequantizeLinear(a, scale, zero)
    c = DequantizeLinear(codes, scale, zero)
    d = MatMul(b, c)
"""
AGAIN = "e = QuantizeLinear(d, scale, zero) y = DequantizeLinear(e, scale, zero)"


def graph(nodes: str, axes: str = "2, 2") -> ir.Model:
    weights = "float scale = {0.5}, uint8 zero = {7}, uint8[2, 2] codes = {1, 2, 3, 4}, int64[1] last = {-1}"
    weights += ", float[2] scales = {0.5, 0.25}, uint8[2] zeros = {7, 8}, int64[1] first = {0}"
    head = '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>'
    text = f"{head} g (float[{axes}] x, float s) => (float[{axes}] y) <{weights}> {{ {nodes} }}"
    return ir.from_proto(parser.parse_model(text))


@pytest.mark.parametrize(
    ("nodes", "of_integers", "products"),
    [
        (f"{CODES} {AGAIN}", 1, 1),
        (f"{CODES} y = Relu(d)", 0, 1),
        (f"{CODES} {AGAIN} z = Relu(d)", 0, 1),
        (f"c = DequantizeLinear(codes, scale, zero) d = MatMul(x, c) {AGAIN}", 0, 1),
        (f"{CODES} f = QuantizeLinear(d, scale, zero) y = MatMul(x, c)", 1, 2),
    ],
)
def test_a_product_is_of_integers_if_its_output_is_quantized(nodes: str, of_integers: int, products: int):
    reading = qnn.read(graph(nodes))
    assert (reading.of_integers, reading.products) == (of_integers, products)
    assert not reading.refused
    assert re.match(f"{of_integers} of {products} .*integers, .*float16", str(reading))


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        ("c = DequantizeLinear(codes, scales, zeros) y = MatMul(x, c)", "1 DequantizeLinear"),
        ("c = DequantizeLinear(codes, scale, zero) y = MatMul(x, c)", ""),
        (f"{CODES.replace('codes, scale, zero', 'codes, scales, zeros')} {AGAIN}", "1 DequantizeLinear"),
        (f"{CODES.replace('codes, scale, zero', 'codes, scales, zeros')} {AGAIN} z = Relu(y)", ""),
        (
            "r = Gather(codes, first) c = DequantizeLinear(codes, scales, zeros) d = MatMul(x, c) "
            "e = DequantizeLinear(codes, scales, zeros) y = MatMul(d, e)",
            "2 DequantizeLinear, 1 Gather",
        ),
        ("r = Gather(x, first) y = Relu(r)", ""),
        ("[signed] s8 = Cast <to = 3> (x) y = Cast <to = 1> (s8)", "1 Cast"),
        ("wide = Cast <to = 6> (codes) y = Cast <to = 1> (wide)", ""),
    ],
)
def test_what_is_left_to_the_cpu_is_counted(nodes: str, left: str):
    """Weights whose columns have scales of their own, where a product isn't one of integers."""
    model = graph(nodes)
    if "z =" in nodes:
        model.graph.outputs[:] = [
            value for node in model.graph for value in node.outputs if value.name == "z"
        ]
    common.ShapeInferencePass()(model)
    stated = str(qnn.read(model)).partition("; on the CPU ")[2]
    assert stated == left


@pytest.mark.parametrize(
    ("nodes", "axes", "words"),
    [
        ("y = Erf(x)", "2, 2", "operators Erf"),
        ("e = own.Fused(x) y = Erf(e)", "2, 2", "operators Erf, own.Fused"),
        ("y = own.Relu(x)", "2, 2", "operators own.Relu"),
        ("y = Relu(x)", "1, 1, 1, 1, 2, 2", "x may have at most 5 axes, but it has 6"),
        (
            "[quantize] a = QuantizeLinear(x, s, zero) y = Cast <to = 1> (a)",
            "2, 2",
            "zero point of quantize must",
        ),
        ("[look] y = Gather(x, last)", "2, 2", "indices of look must not be negative"),
    ],
)
def test_what_it_does_not_take_is_named(nodes: str, axes: str, words: str):
    assert words in "; ".join(qnn.read(graph(nodes, axes)).refused)

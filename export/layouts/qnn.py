"""What Qualcomm's provider (QNN) asks of a graph with fixed shapes, as its documentation says.

Source: docs/execution_providers/QNN-ExecutionProvider.md of onnxruntime-qnn, "Supported ONNX operators" and
"Model requirements", and its builders of Gather and of quantizers. Only its compiler knows each operator's
further conditions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

# Of its table, those that a graph of target standard could have.
NAMES = """
    Abs Add And ArgMax ArgMin Cast Ceil Clip Concat Cos CumSum DequantizeLinear Div Einsum Elu Equal
    Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm Greater GreaterOrEqual
    HardSigmoid HardSwish Identity InstanceNormalization LayerNormalization Less LessOrEqual Log
    LogSoftmax MatMul Max Mean Min Mod Mul Neg Not Or Pad Pow QuantizeLinear Reciprocal ReduceMax
    ReduceMean ReduceMin ReduceProd ReduceSum Relu Reshape Round ScatterElements ScatterND Sigmoid
    Sign Sin Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose Unsqueeze
    Where
"""
OPERATORS = frozenset(NAMES.split())
MOST_AXES = 5
QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
PRODUCTS = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Reading:
    """What it doesn't take, a line each, and how many products of how many are of integers.

    A product is of integers where both its inputs come out of DequantizeLinear and its output goes into
    QuantizeLinear; others have float16.
    """

    refused: tuple[str, ...]
    products: int
    of_integers: int

    def __str__(self) -> str:
        return f"{self.of_integers} of {self.products} products of integers, others in float16"


def read(model: ir.Model) -> Reading:
    """What the provider makes of a graph, whose values all have shapes."""
    products = [node for node in model.graph if node.op_type in PRODUCTS]
    return Reading(tuple(_refused(model.graph)), len(products), sum(map(_of_integers, products)))


def _of_integers(product: ir.Node) -> bool:
    producers = [value.producer() for value in product.inputs[:2] if value is not None]
    users = [user for user, _ in product.outputs[0].uses()]
    return (
        all(node is not None and node.op_type == "DequantizeLinear" for node in producers)
        and bool(users)
        and all(user.op_type == "QuantizeLinear" for user in users)
    )


def _refused(graph: ir.Graph) -> Iterator[str]:
    others = {
        f"{node.domain}.{node.op_type}".lstrip(".")
        for node in graph
        if node.domain or node.op_type not in OPERATORS
    }
    if others:
        yield f"operators {', '.join(sorted(others))}"
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        if value.shape is not None and len(value.shape) > MOST_AXES:
            yield f"{value.name} has {len(value.shape)} axes, it takes {MOST_AXES}"
    for node in graph:
        if node.op_type in QUANTIZERS and not all(v is None or v.is_initializer() for v in node.inputs[1:]):
            yield f"the scale and zero point of {node.name} must be constants"
        places = node.inputs[1] if node.op_type.startswith("Gather") else None
        constant = None if places is None else places.const_value
        if constant is not None and constant.numpy().min() < 0:
            yield f"the places of {node.name} must not be negative"

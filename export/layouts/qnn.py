"""Find out what Qualcomm's execution provider (QNN) can compute of a graph with fixed shapes, according to
its documentation.

Source: docs/execution_providers/QNN-ExecutionProvider.md of onnxruntime-qnn, "Supported ONNX operators" and
"Model requirements", and its builders of Gather and of quantizers. The operators listed as left to the CPU
are those that version 2.7.0 left to the CPU for Qualcomm's simulator of an NPU. Only QNN's compiler knows the
further conditions of each operator.
"""

from __future__ import annotations

from collections import Counter
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
    """How Qualcomm's provider would run a graph.

    - `refused`: what the provider refuses, one line each.
    - `products` and `of_integers`: the number of products, and how many of them are computed with integers.
    - `on_cpu`: the operators that the provider leaves to the CPU, with their numbers.

    A product is computed with integers if both its inputs come from DequantizeLinear and its output goes into
    QuantizeLinear. Other products are computed in float16. For these, a weight with a scale for each column
    or block is converted to floats on the CPU at each run.
    """

    refused: tuple[str, ...]
    products: int
    of_integers: int
    on_cpu: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        text = f"{self.of_integers} of {self.products} products of integers, others in float16"
        left = ", ".join(f"{count} {name}" for name, count in self.on_cpu)
        return f"{text}; on the CPU {left}" if left else text


def read(model: ir.Model) -> Reading:
    """Return how Qualcomm's provider would run a graph. All values of the graph must have shapes."""
    products = [node for node in model.graph if node.op_type in PRODUCTS]
    on_cpu = Counter(node.op_type for node in model.graph if _left_to_cpu(node))
    return Reading(
        tuple(_refused(model.graph)),
        len(products),
        sum(map(_of_integers, products)),
        tuple(sorted(on_cpu.items())),
    )


def _left_to_cpu(node: ir.Node) -> bool:
    """Return whether the provider leaves a node to the CPU, although it supports the node's operator."""
    given, made = node.inputs[0] if node.inputs else None, node.outputs[0]
    in_bytes = given is not None and given.dtype in (ir.DataType.INT8, ir.DataType.UINT8)
    match node.op_type:
        case "Gather":
            return in_bytes
        case "Cast":
            return given is not None and given.dtype == ir.DataType.INT8
        case "DequantizeLinear":
            users = _users(made)
            scale = node.inputs[1]
            alone = scale is None or scale.shape is None or scale.shape.rank() == 0
            return made.is_graph_output() or not (
                alone or all(user.op_type in PRODUCTS and _of_integers(user) for user in users)
            )
        case _:
            return False


def _of_integers(product: ir.Node) -> bool:
    producers = [_producer(value) for value in product.inputs[:2]]
    users = [user for user, _ in product.outputs[0].uses()]
    return (
        all(node is not None and node.op_type == "DequantizeLinear" for node in producers)
        and bool(users)
        and all(user.op_type == "QuantizeLinear" for user in users)
    )


def _producer(value: ir.Value | None) -> ir.Node | None:
    """Return the node that computes a value, or None. A Transpose in between is skipped, because the provider
    transposes the codes instead of the weight.
    """
    node = None if value is None else value.producer()
    return _producer(node.inputs[0]) if node is not None and node.op_type == "Transpose" else node


def _users(value: ir.Value) -> list[ir.Node]:
    """Return the nodes that read a value, directly or after a Transpose."""
    users = [user for user, _ in value.uses()]
    return [
        reader
        for user in users
        for reader in (_users(user.outputs[0]) if user.op_type == "Transpose" else [user])
    ]


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
            yield f"{value.name} may have at most {MOST_AXES} axes, but it has {len(value.shape)}"
    for node in graph:
        if node.op_type in QUANTIZERS and not all(v is None or v.is_initializer() for v in node.inputs[1:]):
            yield f"the scale and zero point of {node.name} must be constants"
        places = node.inputs[1] if node.op_type.startswith("Gather") else None
        constant = None if places is None else places.const_value
        if constant is not None and constant.numpy().min() < 0:
            yield f"the indices of {node.name} must not be negative"

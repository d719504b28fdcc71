"""The graph of ort-cpu over tfm's own kernels: its nodes, but for what the kernels compute.

    MatMulNBits(x, packed, scale, zero?) [+ bias]      BlockLinear(x, packed, scale, zero?, bias?)
    GatherBlockQuantized(packed, ids, scale, zero?)    BlockGather(packed, ids, scale, zero?)
    GroupQueryAttention                                Attention
    silu(gate) * up of one product's halves            SwiGLU
    Add and the norm of the sum                        AddRMSNorm
    RMSNormalization of anything else                  RMSNorm

They compute what `refimpl.ops` specifies; the kernels add in a fixed order, so that a token's bits don't
depend on the tokens beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir
from onnx_ir import convenience
from onnx_ir.passes import common

from ...runtime.bundle import kernel_layout
from ...runtime.bundle.kernel_layout import DOMAIN
from ...runtime.bundle.manifest import Tensor
from ...runtime.bundle.weight_layout import Group
from . import passes

VERSION = 1


def over_kernels(
    model: ir.Model,
    groups: Mapping[str, Group],
    tensors: Mapping[str, Tensor],
    folder: Path,
    *,
    half_cache: bool,
) -> ir.Model:
    """A copy of a graph that reads `tensors`, those of kernels.data, and computes with kernels.

    With a `half_cache` these keep keys and values in float16.
    """
    copy = ir.from_proto(ir.to_proto(model))
    tiled = {f"{name}.packed": group for name, group in groups.items() if kernel_layout.is_tiled(group)}
    for node in list(copy.graph):
        if node.op_type == "GroupQueryAttention":
            _replace_attention(copy.graph, node, half_cache=half_cache)
        elif (packed := _weights(node)) is not None and packed.name in tiled:
            _replace_blocks(copy.graph, node, packed, tiled[packed.name])
    for node in list(copy.graph):
        if node.op_type == "Split":
            _replace_swiglu(copy.graph, node)
        elif node.op_type == "RMSNormalization":
            _replace_norm(copy.graph, node)
    common.RemoveUnusedNodesPass()(copy)
    copy.graph.opset_imports[DOMAIN] = VERSION
    for name in tensors:
        copy.graph.initializers[name].shape = ir.Shape(tensors[name].shape)
    passes.point_weights(copy, tensors, folder / kernel_layout.DATA)
    return copy


def _replace_blocks(graph: ir.Graph, node: ir.Node, packed: ir.Value, group: Group) -> None:
    """A product with blocks and the bias after it, or the rows of a table."""
    replaced, operator = [node], "BlockGather"
    inputs = list(node.inputs)
    inputs[inputs.index(_blocks(node))] = packed
    if node.op_type == "MatMulNBits":
        operator = "BlockLinear"
        if (add := _bias_after(node)) is not None:
            zero = inputs[3] if len(inputs) > 3 else None
            inputs = [*inputs[:3], zero, *(v for v in add.inputs if v and v.is_initializer())]
            replaced.append(add)
    assert group.format is not None
    sizes = {"K": group.length, "N": group.width}
    sizes |= {"bits": group.format.bits, "block_size": group.format.block}
    new, last = ir.node(operator, inputs, sizes, domain=DOMAIN, name=node.name), replaced[-1]
    new.outputs[0].name = last.outputs[0].name
    convenience.replace_nodes_and_values(graph, last, replaced, [new], last.outputs, new.outputs)


def _replace_attention(graph: ir.Graph, node: ir.Node, *, half_cache: bool) -> None:
    q, k, v, keys, values, last, _, *rest = [*node.inputs, *[None] * 7][:14]
    cos, sin, positions, _, sinks, k_scale, v_scale = rest
    defaults = {"local_window_size": -1, "rotary_interleaved": 0, "softcap": 0.0}
    implied = {"do_rotary", "k_quant_type", "v_quant_type", "kv_cache_bit_width"}  # by the inputs
    stated = {name: a.value for name, a in node.attributes.items() if name not in implied}
    inputs = (q, keys, values, last, k, v, cos, sin, positions, sinks, k_scale, v_scale)
    new = ir.node("Attention", inputs, defaults | stated, domain=DOMAIN, num_outputs=3, name=node.name)
    for output, old in zip(new.outputs, node.outputs, strict=True):
        output.name = old.name
    convenience.replace_nodes_and_values(graph, node, [node], [new], node.outputs, new.outputs)
    if half_cache:
        for value in (keys, values, *new.outputs[1:]):
            value.dtype = ir.DataType.FLOAT16


def _only_use(value: ir.Value, operator: str) -> ir.Node | None:
    """The node of that operator that is all that reads a value."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and uses[0].node.op_type == operator else None


def _replace_swiglu(graph: ir.Graph, node: ir.Node) -> None:
    """silu(gate) * up, where gate and up are the halves of one product."""
    if len(node.outputs) != 2:
        return
    gate, up = node.outputs
    if gate.shape is None or gate.shape != up.shape:
        return
    if node.attributes["axis"].value not in (-1, len(gate.shape) - 1):
        return
    readers = {use.node.op_type: use.node for use in gate.uses()}
    if set(readers) != {"Sigmoid", "Mul"}:
        return
    if _only_use(readers["Sigmoid"].outputs[0], "Mul") is not readers["Mul"]:
        return
    last = _only_use(readers["Mul"].outputs[0], "Mul")
    if last is None or _only_use(up, "Mul") is not last:
        return
    new = ir.node("SwiGLU", [node.inputs[0]], domain=DOMAIN, name=last.name)
    new.outputs[0].name = last.outputs[0].name
    replaced = [node, readers["Sigmoid"], readers["Mul"], last]
    convenience.replace_nodes_and_values(graph, last, replaced, [new], last.outputs, new.outputs)


def _replace_norm(graph: ir.Graph, node: ir.Node) -> None:
    """The norm of the last axis by a stored weight, with the sum that it is of, which others read too."""
    x, weight = node.inputs
    assert x is not None
    assert weight is not None
    if not weight.is_initializer():
        return
    operator, inputs, replaced = "RMSNorm", (x, weight), [node]
    if (add := x.producer()) is not None and add.op_type == "Add":
        a, b = add.inputs
        assert a is not None
        assert b is not None
        if a.shape is not None and a.shape == b.shape:  # else a vector is added, or nobody knows
            operator, inputs, replaced = "AddRMSNorm", (a, b, weight), [add, node]
    old = [one.outputs[0] for one in replaced]
    epsilon = {"epsilon": node.attributes["epsilon"].value}
    new = ir.node(operator, inputs, epsilon, domain=DOMAIN, num_outputs=len(old), name=node.name)
    for output, before in zip(new.outputs, old, strict=True):
        output.name = before.name
    convenience.replace_nodes_and_values(graph, replaced[0], replaced, [new], old, new.outputs)


def _blocks(node: ir.Node) -> ir.Value | None:
    """The input of a node that holds its blocks' codes; None if it multiplies with none and reads none."""
    match node.op_type:
        case "MatMulNBits":
            return node.inputs[1]
        case "GatherBlockQuantized":
            return node.inputs[0]
    return None


def _weights(node: ir.Node) -> ir.Value | None:
    """The stored tensor of a node's blocks: a tied table comes to its product through a Reshape."""
    value = _blocks(node)
    while value is not None and (producer := value.producer()) is not None:
        value = producer.inputs[0]
    return value


def _bias_after(node: ir.Node) -> ir.Node | None:
    """The Add of a stored vector, where it is all that reads a product."""
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add":
        return None
    other = uses[0].node.inputs[1 - uses[0].idx]
    is_vector = (
        other is not None and other.is_initializer() and other.shape is not None and len(other.shape) == 1
    )
    return uses[0].node if is_vector else None

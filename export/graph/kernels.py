"""Make the graph over tfm's own kernels from the graph for ort-cpu. The nodes on the left are replaced by the
kernels on the right:

    MatMulNBits(x, packed, scale, zero?)
    [+ sums of x's blocks @ minimum] [+ bias]          BlockLinear(x, packed, scale, zero?, bias?, minimum?,
                                                       factor?, table?)
    MatMulIntegerToFloat of a row's codes, times
    their scales [+ bias] [and GELU]                   RowLinear(x, codes, scale, input_factor?, bias?)
    GatherBlockQuantized(packed, ids, scale, zero?)
    [+ minimum]                                        BlockGather(packed, ids, scale, zero?, minimum?,
                                                       factor?, table?)
    GroupQueryAttention                                Attention
    GroupQueryAttention without outputs for a cache    SharedAttention
    MultiHeadAttention                                 TextAttention
    silu(gate) * up of one product's halves            SwiGLU, in the product BlockSwiGLU
    GELU, tanh, the logistic function, SiLU,           Gelu, GeluTanh, Tanh, Sigmoid, SiLU,
    softplus, the exponential function, the square     Softplus, Exp, Sqrt
    root
    the reciprocal                                     ONNX's Div, which is rounded once
    softmax, the sum of a row, products of floats      Softmax, RowSum, FloatLinear, MatMul
    the sum of a text's vectors, or of its integers    TokenSum
    the logarithm of a whole number                    Log
    sines and cosines in float64                       Sin, Cos
    Add and the norm of the sum                        AddRMSNorm, AddLayerNorm
    norms of anything else                             RMSNorm, LayerNorm
    a causal convolution [and SiLU], and its tail      CausalConv
    products of each expert of a mixture               ExpertLinear, ExpertSwiGLU, ExpertSum
    LinearAttention of the decay -exp(a_log) * step,
    [of keys and queries of length 1,] and its state   LinearAttention

The kernels compute what `refimpl.ops` specifies. The kernels add in a fixed order, so that a token's bits
don't depend on the other tokens of the call.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir import convenience
from onnx_ir.passes import common

from ...refimpl.engine.cache_kinds import Halved
from ...runtime.bundle import kernel_storage
from ...runtime.bundle.kernel_storage import DOMAIN, KernelForm
from ...runtime.bundle.plan import Tensor
from ...runtime.bundle.same_bits import promise
from ...runtime.bundle.views import stored_name
from ...runtime.bundle.weight_storage import Group
from ...runtime.kernels.specification.arithmetic import rope_frequencies
from . import describe, expert_kernels, passes, recurrences
from .rewriting import constant, given, made_by, only_reader, precise_sigmoid_of, put, silu_of

VERSION = 1
NORMS = {"RMSNormalization": "RMSNorm", "LayerNormalization": "LayerNorm"}
SUMMED = frozenset({ir.DataType.FLOAT, ir.DataType.INT64})
POINTWISE = frozenset({"Exp", "Gelu", "Sigmoid", "Softplus", "Sqrt", "Tanh"})


def over_kernels(
    model: ir.Model,
    groups: Mapping[str, Group],
    forms: Mapping[str, KernelForm],
    tensors: Mapping[str, Tensor],
    folder: Path,
    *,
    halved: Halved,
    thetas: Collection[float] = (),
) -> ir.Model:
    """Return a copy of a graph in which tfm's kernels replace ONNX Runtime's operators. The copy reads its
    weights from kernels.data, as `tensors` and `forms` describe.

    `halved` says which keys and values the kernels keep in float16. `thetas` are the thetas of positions
    whose sines the graph computes.
    """
    copy = ir.from_proto(ir.to_proto(model))
    tiled = {
        f"{name}.{'codes' if group.kind == 'row' else 'packed'}": group
        for name, group in groups.items()
        if kernel_storage.is_tiled(group)
    }
    keeps = any(value.name == "past" for value in copy.graph.inputs)
    for node in list(copy.graph):
        if node.op_type == "GroupQueryAttention" and keeps:  # the kernel writes to a cache that is kept
            _replace_attention(copy.graph, node, half=bool(halved))
        elif (name := _weights(node, tensors)) in tiled:
            packed, group = _stored_weight(copy.graph, name, ir.DataType.UINT8), tiled[name]
            if node.op_type == "MatMulIntegerToFloat":
                _replace_rows(copy.graph, node, packed, group)
            else:
                form = forms.get(group.name, kernel_storage.stored_form(group))
                _replace_blocks(copy.graph, node, packed, group, form)
    recurrences.replace_all(copy.graph)
    for node in list(copy.graph):
        if node.op_type == "Split":
            _replace_swiglu(copy.graph, node)
        elif node.op_type in NORMS:
            _replace_norm(copy.graph, node)
        elif node.op_type == "MultiHeadAttention":
            _replace_multi_head(copy.graph, node)
    if halved == "all":
        _halve_encoder_kv(copy.graph)
    expert_kernels.replace_all(copy.graph)
    for node in list(copy.graph):
        if node.op_type in ("Cos", "Sin"):
            _replace_wave(copy.graph, node, thetas)
        elif node.domain == "":
            _replace_pointwise(copy.graph, node)
            _replace_of_row(copy.graph, node)
    common.RemoveUnusedNodesPass()(copy)
    _replace_products(copy.graph)
    describe.name_nodes(copy, groups, tensors)
    copy.graph.opset_imports[DOMAIN] = VERSION
    passes.point_weights(copy, tensors, folder / kernel_storage.DATA)
    return copy


def _replace_blocks(graph: ir.Graph, node: ir.Node, packed: ir.Value, group: Group, form: KernelForm) -> None:
    """Replace a product with a blockwise quantized weight by a kernel, including the minima and the bias
    after it. Or replace the lookup of rows in such a table.
    """
    assert group.format is not None
    operator, bias = "BlockGather", []
    inputs = [*node.inputs, None][:4]
    inputs[inputs.index(_blocks(node))] = packed
    minimum = graph.initializers[f"{group.name}.minimum"] if group.format.minimum else None
    replaced = [node] if minimum is None else [node, *_minima_after(graph, node, minimum)]
    if node.op_type == "MatMulNBits":
        operator = "BlockLinear"
        if (add := _bias_after(replaced[-1])) is not None:
            bias = _stored(add)
            replaced.append(add)
        inputs += bias or [None]
    elif minimum is None:
        # The kernel gives a row without what fills up its last block.
        (rows,) = node.outputs
        assert rows.shape is not None
        rows.shape = ir.Shape([*rows.shape[:-1], group.length])
    factor = table = None
    if form.scales == "codes":
        factor = _stored_weight(graph, f"{group.name}.factor", ir.DataType.FLOAT16)
    if form.table:
        table = _stored_weight(graph, f"{group.name}.table", ir.DataType.UINT8)
    inputs = given([*inputs, minimum, factor, table])
    sizes = {"K": group.length, "N": group.width}
    sizes |= {"bits": form.bits, "block_size": group.format.block}
    _put(graph, replaced, operator, inputs, sizes)


def _minima_after(graph: ir.Graph, node: ir.Node, minimum: ir.Value) -> list[ir.Node]:
    """Return the nodes after a product with blocks, or after a lookup in a table, up to the node that adds
    the minima of the blocks.

    If a Sum adds the minima and something else, it is replaced by two Adds, and the first one adds the
    minima.
    """
    after = []
    while True:
        (value,) = (after or [node])[-1].outputs
        (use,) = value.uses()
        after.append(use.node)
        if use.node.op_type != "Slice":  # of what fills up a last block
            break
    minima = next(other for other in use.node.inputs if other is not value and _is_of(other, minimum))
    if use.node.op_type == "Sum":
        (rest,) = (other for other in use.node.inputs if other is not value and other is not minima)
        add = ir.node("Add", [value, minima], name=f"{node.name}.minima")
        (both,) = add.outputs
        both.name, both.shape, both.type = f"{value.name}.minima", value.shape, value.type
        outer = ir.node("Add", [rest, both], name=use.node.name)
        outer.outputs[0].name = use.node.outputs[0].name
        convenience.replace_nodes_and_values(
            graph, use.node, [use.node], [add, outer], use.node.outputs, outer.outputs
        )
        after[-1] = add
    return after


def _is_of(value: ir.Value | None, minimum: ir.Value) -> bool:
    """Return whether a value is computed from the stored minima: as rows for tokens, or as their product with
    sums.
    """
    while value is not None and value is not minimum:
        node = value.producer()
        value = None if node is None else node.inputs[1 if node.op_type == "MatMul" else 0]
    return value is minimum


def _replace_rows(graph: ir.Graph, node: ir.Node, codes: ir.Value, group: Group) -> None:
    """Replace a product that quantizes each row of its input with one scale. The kernel takes the input in
    floats, and includes the bias and a GELU after the product.
    """
    x = _producer(node.inputs[0]).inputs[0]
    factor = graph.initializers.get(f"{group.name}.input_factor")
    if factor is not None:
        (x,) = (value for value in _producer(x).inputs if value is not factor)
    replaced = [node, next(iter(node.outputs[0].uses())).node]  # times the scales of the rows
    inputs = [x, codes, node.inputs[3], factor]
    if (add := _bias_after(replaced[-1])) is not None:
        inputs += _stored(add)
        replaced.append(add)
    gelu = only_reader(replaced[-1].outputs[0], "Gelu")
    if gelu is not None and gelu.attributes["approximate"].value == "none":
        replaced.append(gelu)
    sizes = {"K": group.length, "N": group.width, "gelu": int(replaced[-1] is gelu)}
    _put(graph, replaced, "RowLinear", inputs, sizes)


def _put(
    graph: ir.Graph,
    replaced: Sequence[ir.Node],
    operator: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any],
) -> None:
    """Replace nodes by one kernel. The kernel's output replaces the output of the last node."""
    first, last = replaced[0], replaced[-1]
    new = ir.node(operator, inputs, attributes, domain=DOMAIN, name=first.name)
    put(graph, new, last, replaced[::-1], last.outputs)


def _producer(value: ir.Value | None) -> ir.Node:
    """Return the node that computes a value. The value must not be an input of the graph or a weight."""
    assert value is not None
    node = value.producer()
    assert node is not None
    return node


def _replace_attention(graph: ir.Graph, node: ir.Node, *, half: bool) -> None:
    q, k, v, keys, values, last, _, *rest = [*node.inputs, *[None] * 7][:14]
    cos, sin, positions, _, sinks, k_scale, v_scale = rest
    defaults = {"local_window_size": -1, "rotary_interleaved": 0, "softcap": 0.0}
    implied = {"do_rotary", "k_quant_type", "v_quant_type", "kv_cache_bit_width"}  # by the inputs
    stated = {name: a.value for name, a in node.attributes.items() if name not in implied}
    if len(node.outputs) == 1:  # of a layer that reads another layer's cache
        read = (q, keys, values, last, cos, sin, positions, sinks)
        _put(graph, [node], "SharedAttention", read, defaults | stated)
        return
    inputs = (q, keys, values, last, k, v, cos, sin, positions, sinks, k_scale, v_scale)
    new = ir.node("Attention", inputs, defaults | stated, domain=DOMAIN, num_outputs=3, name=node.name)
    put(graph, new, node, [node], node.outputs)
    if half:
        for value in (keys, values, *new.outputs[1:]):
            value.dtype = ir.DataType.FLOAT16


def _replace_multi_head(graph: ir.Graph, node: ir.Node) -> None:
    """Replace attention over whole texts by a kernel. The bias of queries, keys and values moves into the
    product before it.
    """
    q, k, v, bias, lengths, added = [*node.inputs, None][:6]
    assert q is not None
    assert k is not None
    assert v is not None
    heads, width = node.attributes["num_heads"].value, q.shape[2] if q.shape else None
    if not isinstance(width, int) or width % (8 * heads):
        return
    inputs = [q, lengths, k, v]
    if not q.shape == k.shape == v.shape and (k.shape is None or len(k.shape) != 4):
        return
    parts = [_before_heads(value) for value in (q, k, v)]
    split = parts[0].producer()
    if split is not None and split.op_type == "Split" and list(split.outputs) == parts:
        inputs = [split.inputs[0], lengths, None, None]
    if bias is not None:
        product = inputs[0].producer() if inputs[0] is not None else None
        if (
            inputs[2] is not None
            or product is None
            or product.domain != DOMAIN
            or len(product.outputs[0].uses()) > 1
        ):
            return
        product.resize_inputs(5)
        product.replace_input_with(4, bias)
    attributes = {name: node.attributes[name].value for name in ("num_heads", "scale", "unidirectional")}
    _put(graph, [node], "TextAttention", given([*inputs, added]), attributes)


def _halve_encoder_kv(graph: ir.Graph) -> None:
    """Store an encoder's keys and values in float16: the encoder's graph returns float16, and the decoder's
    graph reads float16. Operators other than TextAttention get these keys and values back in float32.
    """
    kinds = ("encoder_k.", "encoder_v.")
    for i, value in enumerate(graph.outputs):
        if value.name is not None and value.name.startswith(kinds):
            cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT16)}, name=f"{value.name}.half")
            (half,) = cast.outputs
            half.name, half.shape, half.dtype = value.name, value.shape, ir.DataType.FLOAT16
            value.name = f"{value.name}.float32"
            graph.insert_after(_producer(value), cast)
            graph.outputs[i] = half
    for value in graph.inputs:
        if value.name is None or not value.name.startswith(kinds):
            continue
        value.dtype = ir.DataType.FLOAT16
        others = [use for use in value.uses() if use.node.op_type != "TextAttention"]
        if others:
            cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=f"{value.name}.float32")
            (whole,) = cast.outputs
            whole.name, whole.shape, whole.dtype = f"{value.name}.float32", value.shape, ir.DataType.FLOAT
            graph.insert_before(graph[0], cast)
            for node, index in others:
                node.replace_input_with(index, whole)


def _before_heads(value: ir.Value) -> ir.Value:
    """Return the value before Reshapes that split it into heads and joined the heads again. Other values are
    returned unchanged.
    """
    first = value
    while (node := first.producer()) is not None and node.op_type == "Reshape" and node.inputs[0] is not None:
        first = node.inputs[0]
    return first if first.shape == value.shape else value


def _replace_swiglu(graph: ir.Graph, node: ir.Node) -> None:
    """Replace silu(gate) * up by a kernel, where gate and up are the halves of one product. If possible, the
    kernel includes the product.
    """
    if len(node.outputs) != 2:
        return
    gate, up = node.outputs
    if gate.shape is None or gate.shape != up.shape:
        return
    if node.attributes["axis"].value not in (-1, len(gate.shape) - 1):
        return
    if (silu := silu_of(gate)) is None:
        return
    last = only_reader(silu[1].outputs[0], "Mul")
    if last is None or only_reader(up, "Mul") is not last:
        return
    replaced = [node, *silu, last]
    product = node.inputs[0]
    before = product.producer() if product is not None else None
    if (
        before is not None
        and before.op_type == "BlockLinear"
        and only_reader(before.outputs[0], "Split") is node
        and before.attributes["N"].as_int() % (2 * kernel_storage.TILE) == 0  # whole tiles of gates
    ):
        sizes = {name: attribute.value for name, attribute in before.attributes.items()}
        _put(graph, [before, *replaced], "BlockSwiGLU", before.inputs, sizes)
    else:
        _put(graph, replaced, "SwiGLU", [product], {})


def _replace_pointwise(graph: ir.Graph, node: ir.Node) -> None:
    """Replace a function of single numbers by a kernel. A number times its Sigmoid counts as one function,
    SiLU.
    """
    operator, x = node.op_type, node.inputs[0] if node.inputs else None
    if operator == "Log" and node.outputs[0].dtype == ir.DataType.DOUBLE and made_by(x, "Cast") is not None:
        _put(graph, [node], "Log", [x], {})
        return
    if operator == "Reciprocal":
        _divide_one(graph, node)
        return
    if operator == "Div" and (of := precise_sigmoid_of(node)) is not None:
        operator, x = "Sigmoid", of
    if operator not in POINTWISE:
        return
    (y,) = node.outputs
    product = only_reader(y, "Mul") if operator == "Sigmoid" else None
    if product is not None and x in product.inputs:
        _put(graph, [node, product], "SiLU", [x], {})
        return
    is_tanh = operator == "Gelu" and node.attributes["approximate"].value == "tanh"
    _put(graph, [node], "GeluTanh" if is_tanh else operator, [x], {})


def _replace_wave(graph: ir.Graph, node: ir.Node, thetas: Collection[float]) -> None:
    """Replace the sine or cosine of position times frequency by a kernel. The frequencies are replaced by the
    kernels' specified ones, because the powers that libraries compute differ in their last bits."""
    product = made_by(node.inputs[0], "Mul")
    if product is None or node.outputs[0].dtype != ir.DataType.DOUBLE:
        return
    for value in product.inputs:
        if value is None or (numbers := constant(value)) is None:
            continue
        for theta in thetas:
            exact = rope_frequencies(np.arange(len(numbers)), theta=theta)
            if np.allclose(numbers, exact, rtol=1e-14, atol=0):
                assert value.const_value is not None
                value.const_value = ir.tensor(exact.reshape(value.const_value.shape.numpy()), name=value.name)
                _put(graph, [node], node.op_type, node.inputs, {})
                return


def _divide_one(graph: ir.Graph, node: ir.Node) -> None:
    """Replace a Reciprocal of x by the Div 1 / x. Nothing specifies how a Reciprocal rounds."""
    (y,) = node.outputs
    one = ir.Value(name=f"{y.name}.one", const_value=ir.tensor(np.float32(1)))
    graph.register_initializer(one)
    put(graph, ir.node("Div", [one, *node.inputs], name=node.name), node, [node], [y])


def _replace_of_row(graph: ir.Graph, node: ir.Node) -> None:
    """Replace a function of whole rows of floats by a kernel: a softmax, a sum, or a product with a stored
    matrix. A sum over the tokens is replaced too.
    """
    x, *others = node.inputs or [None]
    if x is None or x.shape is None:
        return
    axes = constant(others[0]) if node.op_type == "ReduceSum" and others else None
    if axes == [1] and not node.attributes["keepdims"].value and x.dtype in SUMMED:
        _put(graph, [node], "TokenSum", [x], {})
        return
    if x.dtype != ir.DataType.FLOAT:
        return
    last = (-1, len(x.shape) - 1)
    match node.op_type:
        case "Softmax" if node.attributes["axis"].value in last:
            _put(graph, [node], "Softmax", [x], {})
        case "ReduceSum" if axes and node.attributes["keepdims"].value:
            if len(axes) == 1 and axes[0] in last:
                _put(graph, [node], "RowSum", [x], {})
        case "MatMul" if others[0] is not None and others[0].is_initializer():
            if others[0].shape is not None and len(others[0].shape) == 2:
                _put(graph, [node], "FloatLinear", [x, others[0]], {})


def _replace_products(graph: ir.Graph) -> None:
    """Replace the products of attention that is computed by basic operators.

    In a graph that reads whole texts, the products are replaced only if all other operators ensure that a
    token's bits don't depend on other tokens. Otherwise ONNX Runtime's products stay, because they are
    faster.
    """
    products = [node for node in graph if node.domain == "" and node.op_type == "MatMul"]
    others = ((node.domain, node.op_type) for node in graph if node not in products)
    if all(value.name != "past" for value in graph.inputs) and not promise(others):
        return
    for node in products:
        if node.outputs[0].dtype == ir.DataType.FLOAT:
            _put(graph, [node], "MatMul", node.inputs, {})


def _replace_norm(graph: ir.Graph, node: ir.Node) -> None:
    """Replace a norm over the last axis, with stored weights or without weights. If the norm's input is a
    sum, the kernel computes the sum too, and returns it for other readers."""
    x, weight, *bias = node.inputs
    assert x is not None
    assert weight is not None
    if not weight.is_initializer():
        ones = made_by(weight, "ConstantOfShape")
        if ones is None or ones.attributes["value"].as_tensor().numpy().tolist() != [1]:
            return
        weight = None
    operator, inputs, replaced = NORMS[node.op_type], [x, weight, *bias], [node]
    if (add := x.producer()) is not None and add.op_type == "Add":
        a, b = add.inputs
        assert a is not None
        assert b is not None
        if a.shape is not None and a.shape == b.shape:  # else a vector is added, or nobody knows
            operator, inputs, replaced = f"Add{operator}", [a, b, weight, *bias], [add, node]
    old = [one.outputs[0] for one in replaced]
    epsilon = {"epsilon": node.attributes["epsilon"].value}
    new = ir.node(operator, given(inputs), epsilon, domain=DOMAIN, num_outputs=len(old), name=node.name)
    put(graph, new, replaced[0], replaced, old)


def _blocks(node: ir.Node) -> ir.Value | None:
    """Return the input of a node that contains the codes of a quantized weight. Return None if the node
    doesn't read such a weight.
    """
    match node.op_type:
        case "MatMulNBits" | "MatMulIntegerToFloat":
            return node.inputs[1]
        case "GatherBlockQuantized":
            return node.inputs[0]
    return None


def _weights(node: ir.Node, tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the stored tensor with the codes that a node reads, or "" if the node reads none. A
    product with a table may read the tensor in another shape."""
    value = _blocks(node)
    return "" if value is None else stored_name(str(value.name), tensors) or ""


def _stored_weight(graph: ir.Graph, name: str, dtype: ir.DataType) -> ir.Value:
    """Return the initializer for a stored tensor. Add it to the graph if it is missing."""
    if name not in graph.initializers:
        graph.initializers.add(ir.Value(name=name, type=ir.TensorType(dtype)))
    return graph.initializers[name]


def _stored(add: ir.Node) -> list[ir.Value]:
    """Return the inputs of an Add that are stored weights."""
    return [value for value in add.inputs if value is not None and value.is_initializer()]


def _bias_after(node: ir.Node) -> ir.Node | None:
    """Return the Add after a node if it adds a stored vector and nothing else reads the node's output.
    Otherwise return None.
    """
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add":
        return None
    other = uses[0].node.inputs[1 - uses[0].idx]
    is_vector = (
        other is not None and other.is_initializer() and other.shape is not None and len(other.shape) == 1
    )
    return uses[0].node if is_vector else None

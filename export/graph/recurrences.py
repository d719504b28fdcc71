"""Replace the nodes of layers that keep a state by tfm's kernels: convolutions, and linear attention with
decay.

The exported graph computes both from many small nodes, and copies each state. The kernels write the state in
place:

    tail, x  ->  Where(past > 0)  ->  Concat  ->  a Slice and a Mul a token of the kernel, Adds [, SiLU]
                                              ->  GatherElements, the next tail
    a state  ->  Where(past > 0)  ->  LinearAttention  ->  the next state

Nodes of any other form stay unchanged.
"""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from ...runtime.bundle.kernel_storage import DOMAIN
from .rewriting import constant, given, made_by, only_reader, precise_silu_of, put, silu_of

MOST_KEYS = 256  # kernels.h: `LinearAttentionCall`


class Part(NamedTuple):
    """A part of each token's vector: the value [B, T, ..] that contains the part, and the index at which the
    part begins.
    """

    value: ir.Value
    at: int = 0


def replace_all(graph: ir.Graph) -> None:
    """Replace all convolutions and linear attentions in the graph by kernels. Nodes of an unknown form stay
    unchanged.
    """
    for node in list(graph):
        if node.op_type == "GatherElements":
            _replace_convolution(graph, node)
    for node in list(graph):
        if node.op_type == "LinearAttention" and node.domain == "com.microsoft":
            _replace_attention(graph, node)


def _kept(value: ir.Value | None, graph: ir.Graph) -> ir.Value | None:
    """Return the graph input that contains a layer's state, if the value is this state with zeros for rows
    that have no earlier token. Return None for any other value.
    """
    begun = made_by(value, "Where")
    if begun is None:
        return None
    condition, kept, zero = begun.inputs
    greater = made_by(_unshaped(condition), "Greater")
    if greater is None or greater.inputs[0] is not _input(graph, "past"):
        return None
    if constant(greater.inputs[1]) != [0] or constant(zero) != [0]:
        return None
    return kept if kept in graph.inputs else None


def _next_of(kept: ir.Value, output: ir.Value, graph: ir.Graph) -> bool:
    """Return whether `output` is the graph output that replaces the state `kept` in the next step."""
    name, _, layer = str(kept.name).partition(".")
    return output in graph.outputs and output.name == f"{name}_out.{layer}"


def _input(graph: ir.Graph, name: str) -> ir.Value | None:
    return next((value for value in graph.inputs if value.name == name), None)


def _replace_convolution(graph: ir.Graph, gather: ir.Node) -> None:
    joined = made_by(gather.inputs[0], "Concat")
    if joined is None or joined.attributes["axis"].value != 1 or len(joined.inputs) != 2:
        return
    tail, x = _kept(joined.inputs[0], graph), joined.inputs[1]
    if tail is None or x is None or not _next_of(tail, gather.outputs[0], graph):
        return
    before = tail.shape[1] if tail.shape else None
    if not isinstance(before, int) or not _from_lengths(gather.inputs[1], before, graph):
        return
    terms = [_term(use.node) for use in joined.outputs[0].uses() if use.node is not gather]
    found = sorted((term for term in terms if term is not None), key=lambda term: term.token)
    if len(found) < len(terms) or [term.token for term in found] != list(range(before + 1)):
        return
    kernel, last = found[0].kernel, found[0].product
    if any(term.kernel is not kernel for term in found) or any(term.tokens != _time(x) for term in found):
        return
    for term in found[1:]:
        total = only_reader(last.outputs[0], "Add")
        if total is None or total is not only_reader(term.product.outputs[0], "Add"):
            return
        last = total
    bias = None
    added = only_reader(last.outputs[0], "Add")
    if added is not None:
        others = [v for v in added.inputs if v is not None and v.is_initializer()]
        if len(others) == 1 and others[0].shape is not None and len(others[0].shape) == 1:
            bias, last = others[0], added
    plain = last.outputs[0]
    silu = precise_silu_of(plain) or (silu_of(plain) or [None])[-1]
    last = last if silu is None else silu
    inputs = given([x, tail, kernel, _input(graph, "past"), _input(graph, "lengths"), bias])
    attributes = {"silu": int(silu is not None)}
    new = ir.node("CausalConv", inputs, attributes, domain=DOMAIN, num_outputs=2, name=joined.name)
    put(graph, new, joined, [last, gather], [last.outputs[0], gather.outputs[0]])


class Term(NamedTuple):
    """One product of a convolution: row `token` of the convolution's weights times the inputs from that token
    on. `tokens` is the number of these inputs.
    """

    product: ir.Node
    kernel: ir.Value
    token: int
    tokens: object


def _term(node: ir.Node) -> Term | None:
    """Return the term of a convolution that begins with this Slice. Return None if the nodes don't have this
    form.
    """
    if node.op_type != "Slice" or constant(node.inputs[3]) != [1] or constant(node.inputs[4]) != [1]:
        return None
    start, product = constant(node.inputs[1]), only_reader(node.outputs[0], "Mul")
    if start is None or product is None:
        return None
    row = made_by(next(v for v in product.inputs if v is not node.outputs[0]), "Gather")
    if row is None or row.attributes["axis"].value != 0 or constant(row.inputs[1]) != start:
        return None
    kernel = row.inputs[0]
    if kernel is None or not kernel.is_initializer():
        return None
    return Term(product, kernel, int(start[0]), _time(node.outputs[0]))


def _time(value: ir.Value) -> object:
    """Return the length of a value's axis of tokens, which is axis 1."""
    return None if value.shape is None else value.shape[1]


def _from_lengths(value: ir.Value | None, count: int, graph: ir.Graph) -> bool:
    """Return whether the value contains the indices `lengths`, `lengths` + 1, … of each row, `count` in
    all.
    """
    for operator in ("Expand", "Unsqueeze"):
        node = made_by(value, operator)
        if node is None:
            return False
        value = node.inputs[0]
    added = made_by(value, "Add")
    if added is None or constant(added.inputs[1]) != list(range(count)):
        return False
    lengths = made_by(added.inputs[0], "Unsqueeze")
    return lengths is not None and lengths.inputs[0] is _input(graph, "lengths")


def _replace_attention(graph: ir.Graph, node: ir.Node) -> None:
    q, k, v, begun, decay, *beta = node.inputs
    state, replaced, after = _kept(_unshaped(begun), graph), [node], node.outputs[1]
    view = only_reader(after, "Squeeze")
    if view is not None:
        replaced, after = [view, node], view.outputs[0]
    if state is None or state.shape is None or not _next_of(state, after, graph):
        return
    heads, keys = state.shape[1], state.shape[2]
    rates = _rates(decay)
    query, key = _heads(q), _heads(k)
    if rates is None or query is None or key is None or not isinstance(keys, int) or keys > MOST_KEYS:
        return
    key_heads = node.attributes["q_num_heads"].as_int() // query.share
    if (query.share, query.unit) != (key.share, key.unit) or not isinstance(heads, int) or heads % key_heads:
        return
    assert v is not None
    value = _part(v) or Part(v)
    step, a_log = rates
    inputs = [query.part.value, key.part.value, value.value, state, step, a_log, _input(graph, "past"), *beta]
    attributes = {
        "key_heads": key_heads,
        "q_at": query.part.at,
        "k_at": key.part.at,
        "v_at": value.at,
        "scale": node.attributes["scale"].value,
        "unit": query.unit,
    }
    new = ir.node("LinearAttention", given(inputs), attributes, domain=DOMAIN, num_outputs=2, name=node.name)
    put(graph, new, node, replaced, [node.outputs[0], after])


def _rates(decay: ir.Value | None) -> tuple[ir.Value, ir.Value] | None:
    """Return `step` and `a_log` if the decay is -exp(a_log) * step. Return None for any other decay.

    `a_log` has one number for each head, or one for each number of a key.
    """
    product = made_by(_unshaped(decay), "Mul")
    if product is None:
        return None
    for rate, step in (product.inputs, product.inputs[::-1]):
        negative = made_by(rate, "Neg")
        exponential = None if negative is None else made_by(negative.inputs[0], "Exp")
        a_log = None if exponential is None else exponential.inputs[0]
        if a_log is not None and a_log.is_initializer() and a_log.shape is not None:
            step = _unshaped(step)
            by_key = len(a_log.shape) == 2
            if (
                step is not None
                and step.shape is not None
                and len(step.shape) == 3
                and by_key == (decay is not product.outputs[0])
            ):
                return step, a_log
    return None


def _unshaped(value: ir.Value | None) -> ir.Value | None:
    """Return the value from which only Reshape, Squeeze and Unsqueeze make this value. So it contains the
    same numbers in the same order.
    """
    while value is not None and (node := value.producer()) is not None:
        if node.op_type not in ("Reshape", "Unsqueeze", "Squeeze"):
            break
        value = node.inputs[0]
    return value


class Heads(NamedTuple):
    """The heads of keys or queries: their place in each token's vector, and how many heads of values share
    one of them.

    If each head is divided by its length, `unit` is the number that is added to the sum of squares. Otherwise
    `unit` is 0.
    """

    part: Part
    share: int = 1
    unit: float = 0.0


def _heads(value: ir.Value | None) -> Heads | None:
    base, share = _unshaped(value), 1
    repeated = made_by(base, "Expand")
    if repeated is not None:
        times = constant(repeated.inputs[1])
        axis = made_by(repeated.inputs[0], "Unsqueeze")
        if times is None or len(times) != 5 or times[:3] + times[4:] != [1] * 4:
            return None
        if axis is None or constant(axis.inputs[1]) != [3]:
            return None
        share, base = int(times[3]), _unshaped(repeated.inputs[0])
    unit = 0.0
    normed = made_by(base, "Mul")
    if normed is not None:
        found = _unit(normed)
        if found is None:
            return None
        base, unit = found
    part = None if base is None else _part(base) or _whole(base)
    return None if part is None else Heads(part, share, unit)


def _unit(product: ir.Node) -> tuple[ir.Value, float] | None:
    """Return x and u if the product is x / sqrt(Σ x² + u), with the sum over each head. Otherwise return
    None.
    """
    x, inverse = product.inputs
    chain: list[ir.Node] = []
    for operator in ("Reciprocal", "Sqrt", "Add", "ReduceSum", "Mul"):
        node = made_by(inverse, operator)
        if node is None:
            return None
        chain.append(node)
        inverse = node.inputs[0]
    unit, axes = constant(chain[2].inputs[1]), constant(chain[3].inputs[1])
    same = all(value is x for value in chain[4].inputs)
    if x is None or unit is None or len(unit) != 1 or axes != [-1] or not same:
        return None
    return x, unit[0]


def _part(value: ir.Value) -> Part | None:
    """Return the part of a larger value that this value is, if a Split along the last of three axes cuts the
    larger value. Otherwise return None.
    """
    base = _unshaped(value)
    split = made_by(base, "Split")
    if split is None or split.inputs[0] is None or split.attributes["axis"].value not in (2, -1):
        return None
    sizes = constant(split.inputs[1]) if len(split.inputs) > 1 else None
    if sizes is None or base is None:
        return None
    return Part(split.inputs[0], int(sum(sizes[: list(split.outputs).index(base)])))


def _whole(value: ir.Value) -> Part | None:
    return Part(value) if value.shape is not None and len(value.shape) == 3 else None

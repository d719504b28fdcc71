"""Replace the nodes of a mixture of experts by tfm's kernels: one node computes the products of all chosen
experts.

The exported graph has nodes for each expert, including experts that get no token:

    index == e  ->  NonZero  ->  token, choice
    x[token]    ->  products of expert e, and what is between them
                ->  shares[token, choice] *  ->  ScatterND, added to those of the experts before

The kernels' graph has one node for the first products of all experts (ExpertLinear, or with SiLU gates
ExpertSwiGLU). Then come the nodes that were between the products of one expert, and then ExpertSum, which
adds the experts' outputs in the same order as the exported graph. Mixtures of any other form stay
unchanged.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import onnx_ir as ir

from ...runtime.bundle.kernel_storage import DOMAIN
from .rewriting import constant, made_by, put

OPERATORS = {"BlockLinear": "ExpertLinear", "BlockSwiGLU": "ExpertSwiGLU"}
# What may be between products: numbers of a row are computed of numbers of that row alone.
ELEMENTWISE = ("Add", "Clip", "Div", "Erf", "Exp", "Max", "Min", "Mul", "Neg", "Pow", "Sub", "Where")
BETWEEN = frozenset({*ELEMENTWISE, "Gelu", "Relu", "Sigmoid", "Split", "SwiGLU", "Tanh"})


class FoundExpert(NamedTuple):
    """The nodes and values of a graph that compute one expert."""

    number: int
    first: list[ir.Node]  # its products of the chosen rows
    between: list[ir.Value]  # and the last one
    last: ir.Node
    form: Hashable  # of the computation, but for the matrices
    read: tuple[ir.Value, ir.Value, ir.Value]  # x, index and shares


def replace_all(graph: ir.Graph) -> None:
    """Replace all mixtures of experts in the graph by kernels. Mixtures of an unknown form stay unchanged."""
    for node in list(graph):
        if node.op_type == "ScatterND" and not _goes_on(node):
            _replace(graph, node)


def _goes_on(node: ir.Node) -> bool:
    """Return whether another expert's rows are added to the output of this ScatterND."""
    (value,) = node.outputs
    return any(use.node.op_type == "ScatterND" and use.node.inputs[0] is value for use in value.uses())


def _replace(graph: ir.Graph, end: ir.Node) -> None:
    experts: list[FoundExpert] = []
    begin: ir.Value | None = end.outputs[0]
    while (scatter := made_by(begin, "ScatterND")) is not None:
        expert = _expert(scatter)
        if expert is None:
            return
        experts.insert(0, expert)
        begin = scatter.inputs[0]
    zeros = made_by(begin, "Expand")
    if zeros is None or constant(zeros.inputs[0]) != [0]:
        return
    one = experts[0]
    if [expert.number for expert in experts] != list(range(len(experts))):
        return
    if any((expert.form, expert.read) != (one.form, one.read) for expert in experts):
        return
    x, index, shares = one.read
    for j, product in enumerate(one.first):
        matrices = [expert.first[j] for expert in experts]
        _put(graph, product, OPERATORS[product.op_type], [x, index], matrices)
    for value in one.between:
        # It was [1, an expert's rows, ..]. ONNX Runtime gives memory of the stated size to later values.
        value.shape = None
    _put(graph, end, "ExpertSum", [one.last.inputs[0], index, shares], [expert.last for expert in experts])


def _put(
    graph: ir.Graph, node: ir.Node, operator: str, inputs: list[ir.Value | None], products: Sequence[ir.Node]
) -> None:
    """Replace a node by a kernel that computes one product of every expert. `products` are the experts'
    products, in the order of the experts.
    """
    sizes = {name: attribute.value for name, attribute in products[0].attributes.items()}
    zeros, bias, minimum, _, table = _optional(products[0])
    for product in products:
        of_zeros, of_bias, of_minima, *others = _optional(product)
        inputs += [*product.inputs[1:3], *filter(None, (of_zeros, of_minima, of_bias, *others))]
    has = {"zeros": zeros is not None, "minima": minimum is not None, "biases": bias is not None}
    has["tables"] = table is not None
    attributes = sizes | {name: int(there) for name, there in has.items()}
    new = ir.node(operator, inputs, attributes, domain=DOMAIN, name=node.name)
    put(graph, new, node, [node], node.outputs)
    if operator != "ExpertSum":
        new.outputs[0].shape = None  # as in `_replace`


def _optional(product: ir.Node) -> Sequence[ir.Value | None]:
    """Return the optional inputs of a product: zero points, bias, minima, factors and table. A missing input
    is None.
    """
    return [*product.inputs[3:], *[None] * 5][:5]


def _expert(scatter: ir.Node) -> FoundExpert | None:
    """Return the expert whose rows this ScatterND adds. Return None if the nodes before it don't have the
    form of an expert.
    """
    reduction = scatter.attributes.get("reduction")
    weighed = made_by(scatter.inputs[2], "Mul")
    if reduction is None or reduction.value != "add" or weighed is None:
        return None
    token = _reshaped(scatter.inputs[1], "Unsqueeze")
    share, out = weighed.inputs
    chosen = made_by(_reshaped(share, "Unsqueeze"), "GatherND")
    pairs = made_by(chosen.inputs[1], "Concat") if chosen is not None else None
    if chosen is None or pairs is None or len(pairs.inputs) != 2:
        return None
    same, choice = (_reshaped(value, "Unsqueeze") for value in pairs.inputs)
    index, number = _choice(token, 0)
    if same is not token or number is None or _choice(choice, 1) != (index, number):
        return None
    last = _product(_reshaped(out, "Squeeze"))
    if last is None or last.op_type != "BlockLinear":
        return None
    found = Rows(token)
    form = found.form(last.inputs[0])
    if form is None or found.x is None or index is None or chosen.inputs[0] is None:
        return None
    read = found.x, index, chosen.inputs[0]
    return FoundExpert(number, found.first, found.between, last, (form, _shape(last)), read)


def _reshaped(value: ir.Value | None, operator: str) -> ir.Value | None:
    """Return the input of the node that computes a value, if the node is this operator (Squeeze, Unsqueeze or
    Reshape). Otherwise return None.
    """
    node = made_by(value, operator)
    return None if node is None else node.inputs[0]


def _choice(value: ir.Value | None, row: int) -> tuple[ir.Value | None, int | None]:
    """Return `index` and the number of the expert, if the value contains places at which `index` equals this
    number. Row 0 contains the tokens of these places, and row 1 the choices.

    Return (None, None) for any other value.
    """
    part = made_by(_reshaped(value, "Squeeze"), "Slice")
    if part is None or [constant(v) for v in part.inputs[1:4]] != [[row], [row + 1], [0]]:
        return None, None
    found = made_by(part.inputs[0], "NonZero")
    equal = None if found is None else made_by(found.inputs[0], "Equal")
    number = None if equal is None else constant(equal.inputs[1])
    if equal is None or number is None or len(number) != 1:
        return None, None
    return equal.inputs[0], int(number[0])


def _product(value: ir.Value | None) -> ir.Node | None:
    """Return the kernel of a product with blocks that computes a value, or None if another node computes the
    value.
    """
    node = None if value is None else value.producer()
    return node if node is not None and node.domain == DOMAIN and node.op_type in OPERATORS else None


def _shape(product: ir.Node) -> Hashable:
    """Return the properties of a product that must be equal for all experts: the operator, its sizes, and
    which optional inputs are missing.
    """
    sizes = sorted((name, attribute.value) for name, attribute in product.attributes.items())
    return product.op_type, tuple(sizes), tuple(value is None for value in _optional(product))


class Rows:
    """The computation that leads from the rows of x that are routed to an expert to the input of the expert's
    last product.
    """

    def __init__(self, token: ir.Value | None) -> None:
        self.token = token
        self.x: ir.Value | None = None
        self.first: list[ir.Node] = []
        self.between: list[ir.Value] = []

    def form(self, value: ir.Value | None) -> Hashable:
        """Return the steps by which a value is computed from products of the expert's rows. Returns None if
        the value depends on anything else besides constants, and "absent" if there is no value.
        """
        if value is None:
            return "absent"
        if (product := _product(value)) is not None:
            return self._of_rows(product)
        numbers = constant(value)
        if numbers is not None and value.shape is not None and len(value.shape) <= 1:
            return "constant", tuple(numbers)
        node = value.producer()
        if node is None or node.op_type not in BETWEEN:
            return None
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        if node.op_type == "Split" and attributes.get("axis") not in (-1, 2):
            return None
        inputs = [self.form(one) for one in node.inputs]
        if None in inputs:
            return None
        self.between += node.outputs
        return node.op_type, repr(sorted(attributes.items())), node.outputs.index(value), *inputs

    def _of_rows(self, product: ir.Node) -> Hashable:
        taken = made_by(_reshaped(product.inputs[0], "Unsqueeze"), "Gather")
        if taken is None or taken.attributes["axis"].value != 0 or taken.inputs[0] is None:
            return None
        if taken.inputs[1] is not self.token and _reshaped(taken.inputs[1], "Reshape") is not self.token:
            return None
        if self.x is not None and taken.inputs[0] is not self.x:
            return None
        self.x = taken.inputs[0]
        if product not in self.first:
            self.first.append(product)
        return "product", self.first.index(product), _shape(product)

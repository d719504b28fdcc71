"""Find the values of a decoder's graph that the specification observes, by the names of the weights that the
neighbouring nodes read.
"""

from __future__ import annotations

import onnx

from ...refimpl.config import LM, Attention, Config, MoE, NoMlp, Norm
from ...refimpl.errors import BundleError
from ...runtime.bundle.graph_io import GRAPH

CODES = ("DequantizeLinear", "QuantizeLinear")
NORMS = ("RMSNormalization", "LayerNormalization")


class _Graph:
    """A graph with tables of which node makes each value and which nodes read it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.weights = [value.name for value in graph.initializer]
        self.makers = {name: node for node in graph.node for name in node.output}
        self._uses: dict[str, list[onnx.NodeProto]] = {}
        self._constant = set(self.weights)
        for node in graph.node:
            if all(name in self._constant or not name for name in node.input):
                self._constant.update(node.output)
            for name in dict.fromkeys(node.input):
                self._uses.setdefault(name, []).append(node)

    def product(self, *leaves: str) -> onnx.NodeProto:
        """Return the node that multiplies activations by one of these parameters. Raises BundleError if there
        is none.
        """
        prefixes = tuple(f"{leaf}." for leaf in leaves)
        names = [name for name in self.weights if name.startswith(prefixes) or name in leaves]
        # Minima are multiplied in a smaller product of their own.
        names = [name for name in names if not name.endswith(".minimum")]
        while names:
            name = names.pop(0)
            for node in self._uses.get(name, []):
                if "Gather" in node.op_type:
                    continue
                computed = node.output[0] not in self._constant
                if computed and name in node.input[1:] and node.op_type not in CODES:
                    return node
                names += [output for output in node.output if output in self._constant]
        raise BundleError(
            f"{GRAPH} must multiply with the weight {' or '.join(leaves)}, but doesn't: export the "
            "model again"
        )

    def product_input(self, node: onnx.NodeProto) -> str:
        """Return the name of a product's input, before the input is rounded to codes."""
        name = node.input[0]
        for quantizer in CODES:  # one pair: before it may stand that of another product's output
            if name in self.makers and self.makers[name].op_type == quantizer:
                name = self.makers[name].input[0]
        if name in self.makers and self.makers[name].op_type == "Div":  # by the scale of each row
            return self.makers[name].input[0]
        return name

    def normed(self, weight: str) -> str | None:
        """Return the name of the output of the norm that has this weight, or None if no such norm is
        found.
        """
        cast = next(iter(self._casts(weight)), weight)
        users = self._uses.get(cast, [])
        if len(users) != 1 or users[0].op_type not in (*NORMS, "Mul"):
            return None
        value = users[0].output[0]
        return value if cast == weight else next(iter(self._casts(value)), value)

    def before_norm(self, value: str) -> str | None:
        """Return the input of the norm that computes a value, or None if another operator computes the value.

        A norm has casts on both sides or on neither side. If no cast follows the norm, a cast before the norm
        doesn't belong to it.
        """
        made = self._uncast(value)
        node = self.makers.get(made)
        if node is not None and node.op_type == "Mul" and self._is_normed(node.input[0]):
            node = self.makers[node.input[0]]  # the norm without its weight
        if node is None or not (node.op_type in NORMS or self._is_normed(node.output[0])):
            return None
        return node.input[0] if made == value else self._uncast(node.input[0])

    def _is_normed(self, value: str) -> bool:
        """Return whether a value is x · 1/√(mean of x²), which is how standard operators compute a norm."""
        node = self.makers.get(value)
        if node is None or node.op_type != "Mul":
            return False
        factor = self.makers.get(node.input[1])
        return factor is not None and factor.op_type == "Reciprocal"

    def _casts(self, value: str) -> list[str]:
        return [node.output[0] for node in self._uses.get(value, []) if node.op_type == "Cast"]

    def _uncast(self, value: str) -> str:
        node = self.makers.get(value)
        return node.input[0] if node is not None and node.op_type == "Cast" else value


def graph_values(graph: onnx.GraphProto, config: Config) -> dict[str, str]:
    """Find the values that the specification observes in a decoder's graph. Return a dict from the
    specification's name for each found value to the graph's name.

    A sublayer's input is found from the parameter of its norm or of its first product. The norm reads the
    residual stream. If two observed values are the same value of the graph, only the first is returned.
    """
    nodes, stack, found = _Graph(graph), config.stacks["decoder"], dict[str, str]()

    def cut(name: str, value: str | None) -> None:
        if value is not None:
            found.setdefault(value, name)

    def input_of(*leaves: str) -> str:
        return nodes.product_input(nodes.product(*leaves))

    def stream(read: str | None, norm: Norm | None) -> str | None:
        return read if read is None or norm is None else nodes.before_norm(read)

    for i, layer in enumerate(stack.layers):
        part, leaf = f"layer {i}, ", f"decoder.layers.{i}."
        read = nodes.normed(f"{leaf}attn_pre.weight")
        if read is None and isinstance(layer.attention, Attention):
            read = input_of(f"{leaf}attn.wqkv", f"{leaf}attn.wq")
        if stack.streams == 1:
            cut("embedding" if i == 0 else f"layer {i - 1}, output", stream(read, layer.attention.pre))
        cut(f"{part}attention, input", read)
        if isinstance(layer.attention, Attention):
            cut(f"{part}attention, heads", input_of(f"{leaf}attn.wo"))
        if isinstance(layer.mlp, NoMlp):
            continue
        read = nodes.normed(f"{leaf}mlp_pre.weight")
        if read is None and not isinstance(layer.mlp, MoE):
            read = input_of(f"{leaf}mlp.gate_up", f"{leaf}mlp.gate", f"{leaf}mlp.up")
        if not layer.parallel:
            cut(f"{part}attention, output", stream(read, layer.mlp.pre))
        cut(f"{part}mlp, input", read)
        if not isinstance(layer.mlp, MoE):
            cut(f"{part}mlp, hidden", input_of(f"{leaf}mlp.down"))
    assert isinstance(config.head, LM)
    read, table = nodes.normed("decoder.norm.weight"), None
    if config.head.adaptive is None:
        table = input_of("embedding.table" if config.head.tied else "head.table")
        if read is None and config.head.dense is None and config.embedding.projection is None:
            read = table
    if stack.streams == 1:
        cut(f"layer {len(stack.layers) - 1}, output", stream(read, stack.final_norm))
    cut("head, input", table)
    return {name: value for value, name in found.items()} | {"logits": "logits"}

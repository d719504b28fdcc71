"""The values of a decoder's graph that are its parts' outputs, found by the names of its weights."""

from __future__ import annotations

import onnx

from ...refimpl.config import LM, Config, MoE
from ...refimpl.errors import BundleError
from ...refimpl.params.shapes import parameter_shapes
from ...runtime.bundle.graph_io import GRAPH
from .reference_parts import has_plain_residual, is_scaled, plain_attention

CODES = ("DequantizeLinear", "QuantizeLinear")
SUMS = ("Add", "Sum")  # the stream is a Sum's first input
# Operators between a product and the residual sum.
PASSED = (*SUMS, *CODES, "Mul", "Cast", "Reshape", "RMSNormalization", "LayerNormalization")


class _Graph:
    """A graph's nodes by the values that they read and make."""

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
        """The node that multiplies activations with one of these leaves."""
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
        raise BundleError(f"{GRAPH}: no product with {' or '.join(leaves)}: export the model again")

    def product_input(self, node: onnx.NodeProto) -> str:
        """The input of a product, before it is rounded to codes."""
        name = node.input[0]
        for quantizer in CODES:  # one pair: before it may stand that of another product's output
            if name in self.makers and self.makers[name].op_type == quantizer:
                name = self.makers[name].input[0]
        if name in self.makers and self.makers[name].op_type == "Div":  # by the scale of each row
            return self.makers[name].input[0]
        return name

    def residual_sum(self, node: onnx.NodeProto) -> tuple[str, str]:
        """The residual sum after a product, and the product's operand of it; empty names if there is none."""
        name = node.output[0]
        total = operand = ""
        while len(self._uses.get(name, [])) == 1 and self._uses[name][0].op_type in PASSED:
            node = self._uses[name][0]
            if node.op_type in SUMS:
                operand, total = name, node.output[0]
            name = node.output[0]
        return total, operand


def graph_values(graph: onnx.GraphProto, config: Config) -> dict[str, str]:
    """Name of a part -> name of the graph's value; empty where no residual sum can be found."""
    nodes = _Graph(graph)
    values: dict[str, str] = {}
    for i, layer in enumerate(config.layers):
        if plain_attention(layer) is None:
            return values
        part, leaf = f"layer {i}, ", f"decoder.layers.{i}."
        out = nodes.product(f"{leaf}attn.wo")
        qkv = nodes.product(f"{leaf}attn.wqkv", f"{leaf}attn.wq")
        values[f"{part}attention, input"] = nodes.product_input(qkv)
        values[f"{part}attention, heads"] = nodes.product_input(out)
        total, operand = nodes.residual_sum(out) if has_plain_residual(layer) else ("", "")
        if not total:
            return values if i else {}  # the embedding is found by the first sum only
        values[f"{part}attention, output"] = total
        if i == 0:
            values["embedding"] = next(name for name in nodes.makers[total].input if name != operand)
        if isinstance(layer.mlp, MoE) or is_scaled(layer.mlp):
            break
        down = nodes.product(f"{leaf}mlp.down")
        up = nodes.product(f"{leaf}mlp.gate_up", f"{leaf}mlp.gate", f"{leaf}mlp.up")
        values[f"{part}mlp, input"] = nodes.product_input(up)
        values[f"{part}mlp, hidden"] = nodes.product_input(down)
        values[f"{part}mlp, output"], _ = nodes.residual_sum(down)
    if isinstance(config.head, LM) and config.head.adaptive is not None:
        return values
    tied = "head.table" not in parameter_shapes(config)
    values["head, input"] = nodes.product_input(nodes.product("embedding.table" if tied else "head.table"))
    values["logits"] = "logits"
    return values

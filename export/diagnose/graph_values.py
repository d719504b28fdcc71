"""The values of a decoder's graph that are its parts' outputs, found by the names of its weights."""

from __future__ import annotations

import onnx

from ...refimpl.config import LM, Attention, Config, MoE
from ...refimpl.errors import BundleError
from ...refimpl.params.shapes import parameter_shapes
from ...runtime.bundle.graph_io import GRAPH
from .reference_parts import has_plain_residual, is_scaled

CODES = ("QuantizeLinear", "DequantizeLinear")
SUMS = ("Add", "Sum")  # the stream is a Sum's first input
# Operators between a product and the residual sum.
PASSED = (*SUMS, "Mul", "Cast", "Reshape", "RMSNormalization", "LayerNormalization")


def graph_values(graph: onnx.GraphProto, config: Config) -> dict[str, str]:
    """Name of a part -> name of the graph's value; empty where no residual sum can be found."""
    uses: dict[str, list[onnx.NodeProto]] = {}
    makers = {name: node for node in graph.node for name in node.output}
    constant = {value.name for value in graph.initializer}
    for node in graph.node:
        if all(name in constant or not name for name in node.input):
            constant.update(node.output)
        for name in dict.fromkeys(node.input):
            uses.setdefault(name, []).append(node)

    def product(*leaves: str) -> onnx.NodeProto:
        """The node that multiplies activations with one of these leaves."""
        prefixes = tuple(f"{leaf}." for leaf in leaves)
        names = [v.name for v in graph.initializer if v.name.startswith(prefixes) or v.name in leaves]
        # Minima are multiplied in a smaller product of their own.
        names = [name for name in names if not name.endswith(".minimum")]
        while names:
            name = names.pop(0)
            for node in uses.get(name, []):
                if "Gather" in node.op_type:
                    continue
                computed = node.output[0] not in constant
                if computed and name in node.input[1:] and node.op_type not in CODES:
                    return node
                names += [output for output in node.output if output in constant]
        raise BundleError(f"{GRAPH}: no product with {' or '.join(leaves)}: export the model again")

    def product_input(node: onnx.NodeProto) -> str:
        """The input of a product, before it is rounded to codes."""
        name = node.input[0]
        while name in makers and makers[name].op_type in CODES:
            name = makers[name].input[0]
        if name in makers and makers[name].op_type == "Div":  # by the scale of each row
            return makers[name].input[0]
        return name

    def residual_sum(node: onnx.NodeProto) -> tuple[str, str]:
        """The residual sum after a product, and the product's operand of it; empty names if there is none."""
        name = node.output[0]
        total = operand = ""
        while len(uses.get(name, [])) == 1 and uses[name][0].op_type in PASSED:
            node = uses[name][0]
            if node.op_type in SUMS:
                operand, total = name, node.output[0]
            name = node.output[0]
        return total, operand

    values = {}
    for i, layer in enumerate(config.layers):
        if not isinstance(layer.attention, Attention) or layer.attention.output_gate or layer.beside:
            return values
        part, leaf = f"layer {i}, ", f"decoder.layers.{i}."
        out = product(f"{leaf}attn.wo")
        values[f"{part}attention, input"] = product_input(product(f"{leaf}attn.wqkv", f"{leaf}attn.wq"))
        values[f"{part}attention, heads"] = product_input(out)
        total, operand = residual_sum(out) if has_plain_residual(layer) else ("", "")
        if not total:
            return values if i else {}  # the embedding is found by the first sum only
        values[f"{part}attention, output"] = total
        if i == 0:
            values["embedding"] = next(name for name in makers[total].input if name != operand)
        if isinstance(layer.mlp, MoE) or is_scaled(layer.mlp):
            break
        down = product(f"{leaf}mlp.down")
        up = product(f"{leaf}mlp.gate_up", f"{leaf}mlp.gate", f"{leaf}mlp.up")
        values[f"{part}mlp, input"] = product_input(up)
        values[f"{part}mlp, hidden"] = product_input(down)
        values[f"{part}mlp, output"], _ = residual_sum(down)
    if isinstance(config.head, LM) and config.head.adaptive is not None:
        return values
    tied = "head.table" not in parameter_shapes(config)
    values["head, input"] = product_input(product("embedding.table" if tied else "head.table"))
    values["logits"] = "logits"
    return values

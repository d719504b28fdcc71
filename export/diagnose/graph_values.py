"""Where the pieces of a decoder stand in its graph: the names of the weights lead there."""

from __future__ import annotations

import onnx

from ...refimpl.config import Config, MoE
from ...refimpl.errors import BundleError
from ...refimpl.params.shapes import parameter_shapes
from ...runtime.bundle.graph_io import GRAPH
from .reference_parts import followed

CODES = ("QuantizeLinear", "DequantizeLinear")
SUMS = ("Add", "Sum")  # of a Sum the stream is the first
# What may stand between a product and the residual sum, each one node.
PASSED = (*SUMS, "Mul", "Cast", "Reshape", "RMSNormalization", "LayerNormalization")


def places_of(graph: onnx.GraphProto, config: Config) -> dict[str, str]:
    """Name of a part -> the graph's value that it computes."""
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
        own = tuple(f"{leaf}." for leaf in leaves)
        near = [v.name for v in graph.initializer if v.name.startswith(own) or v.name in leaves]
        near = [name for name in near if not name.endswith(".minimum")]  # the product's smaller half
        while near:
            name = near.pop(0)
            for node in uses.get(name, []):
                if "Gather" in node.op_type:
                    continue
                made = node.output[0] not in constant
                if made and name in node.input[1:] and node.op_type not in CODES:
                    return node
                near += [n for n in node.output if n in constant]
        raise BundleError(f"{GRAPH}: no product with {' or '.join(leaves)}: export the model again")

    def fed(node: onnx.NodeProto) -> str:
        """The activations that a product takes, before they were rounded to codes."""
        name = node.input[0]
        while name in makers and makers[name].op_type in CODES:
            name = makers[name].input[0]
        scaled = name in makers and makers[name].op_type == "Div"  # rows, where scales can't be computed
        return makers[name].input[0] if scaled else name

    def summed(node: onnx.NodeProto) -> tuple[str, str]:
        """The residual sum that a product's output ends in, and the product's side of it, or nothing."""
        name, side, total = node.output[0], "", ""
        while len(uses.get(name, [])) == 1 and uses[name][0].op_type in PASSED:
            node = uses[name][0]
            if node.op_type in SUMS:
                side, total = name, node.output[0]
            name = node.output[0]
        return total, side

    found = {}
    for i, layer in enumerate(config.layers):
        at, leaf = f"layer {i}, ", f"decoder.layers.{i}."
        out = product(f"{leaf}attn.wo")
        found[f"{at}attention, input"] = fed(product(f"{leaf}attn.wqkv", f"{leaf}attn.wq"))
        found[f"{at}attention, heads"] = fed(out)
        total, side = summed(out) if followed(layer) else ("", "")
        if not total:
            return found if i else {}  # without the first sum nobody knows the embedding
        found[f"{at}attention, output"] = total
        if i == 0:
            found["embedding"] = next(value for value in makers[total].input if value != side)
        if isinstance(layer.mlp, MoE):
            break
        down = product(f"{leaf}mlp.down")
        found[f"{at}mlp, input"] = fed(product(f"{leaf}mlp.gate_up", f"{leaf}mlp.gate", f"{leaf}mlp.up"))
        found[f"{at}mlp, hidden"] = fed(down)
        found[f"{at}mlp, output"], _ = summed(down)
    tied = "head.table" not in parameter_shapes(config)
    found["head, input"] = fed(product("embedding.table" if tied else "head.table"))
    found["logits"] = "logits"
    return found

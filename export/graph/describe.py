"""Give the nodes and values of a graph names, descriptions and properties, for readers who have only the
file.

A node's name begins with the name of the weight that the node reads. A node without a weight gets the name of
the part of the model that computes its inputs. The node's operator follows:
decoder.layers.0.attn.wqkv.MatMulNBits, decoder.layers.0.attn.GroupQueryAttention. The node's first output has
the same name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import onnx_ir as ir

from ...runtime.bundle.graph_io import meaning
from ...runtime.bundle.plan import Tensor
from ...runtime.bundle.views import stored_name
from ...runtime.bundle.weight_storage import Group


def name_nodes(model: ir.Model, groups: Mapping[str, Group], tensors: Mapping[str, Tensor]) -> None:
    """Name the nodes of a graph and the values between nodes. Inputs, outputs and weights keep their
    names.
    """
    # Of the latest weight before a node: its place and its part.
    parts: dict[ir.Node | None, tuple[int, str]] = {}
    seen: Counter[str] = Counter()
    ports = {*model.graph.inputs, *model.graph.outputs}
    for i, node in enumerate(model.graph):
        values = [value for value in node.inputs if value is not None]
        weights = [_leaf(str(value.name), groups, tensors) for value in values if value.is_initializer()]
        leaf = next(filter(None, weights), "")
        before = [parts[value.producer()] for value in values if value.producer() is not None]
        before += [(-1, str(value.name)) for value in values if value in ports]
        parts[node] = (i, leaf.rpartition(".")[0]) if leaf else max(before, default=(-1, ""))
        name = ".".join(filter(None, (leaf or parts[node][1], node.op_type)))
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        for output, value in enumerate(node.outputs):
            if value.name and value not in ports:
                value.name = f"{node.name}.{output}" if output else node.name


def _leaf(name: str, groups: Mapping[str, Group], tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the group to which a stored tensor belongs. Return "" if the bundle doesn't store a
    tensor of this name.
    """
    stored = stored_name(name, tensors)
    if stored is None or stored in groups:
        return stored or ""
    return stored.rpartition(".")[0]


def explain(model: ir.Model, about: Mapping[str, str]) -> None:
    """Add a description to each input and output of the graph, and add the properties `about`, which say
    which model the graph belongs to.
    """
    model.metadata_props.update(about)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.doc_string = meaning(str(value.name))

"""Find the values that a graph passes from layer to layer. The weights of norms show where these values
are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ...refimpl.config import Config
from ..bundle.graph_nodes import Node, content
from ..bundle.plan import Tensor
from ..bundle.views import stored_name
from .graph_settings import NORMS
from .streamed_reference import Place


class Value(NamedTuple):
    """A value [B, T, N] of a graph: its name, and its last axis N as `width`."""

    name: str
    width: int


def between_layers(data: bytes, config: Config, tensors: Mapping[str, Tensor]) -> dict[Place, Value]:
    """Return the values that the layers of a graph's stacks read, and the outputs of the stacks' last layers.

    The key (stack, i) of the result means the input of the stack's layer i, and the stack's output if i is
    the number of layers. Each value is found by the norm before or after it. If this norm consists of several
    operators, the value isn't found. The file must be one that `graph_check` accepts. `tensors` are the
    stored tensors that the graph reads.
    """
    norms: dict[str, Node] = {}
    for node in content(data).nodes:
        if node.operator in NORMS:
            norms |= {leaf: node for one in node.inputs[1:] if (leaf := stored_name(one, tensors))}
    found: dict[Place, Value] = {}
    for name, stack in config.stacks.items():
        if stack.streams > 1:  # several vectors pass
            continue
        projection = (config.text_embedding if name == "encoder" else config.embedding).projection
        more_before = stack.norm_before_positions or (projection is not None and projection.late)
        for i in range(len(stack.layers) + 1):
            norm = "mlp_after" if i and stack.layers[i - 1].conv is None else "conv_after"
            last = f"layers.{i - 1}.{norm}" if i else "first_norm"
            following = f"layers.{i}.attn_pre" if i < len(stack.layers) else "norm"
            if node := norms.get(leaf := f"{name}.{following}.weight"):
                value = node.outputs[0] if node.operator.startswith("Add") else node.inputs[0]
            elif (i or not more_before) and (node := norms.get(leaf := f"{name}.{last}.weight")):
                value = node.outputs[-1]
            else:
                continue
            found[name, i] = Value(value, tensors[leaf].shape[-1])
    return found

"""One graph of a bundle: traced, optimized, checked, with pointers to its weights in the data file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from ...refimpl.config import Config
from ...runtime.bundle import operator_limits
from ...runtime.bundle.graph_io import Graph
from ...runtime.bundle.manifest import Tensor
from ...runtime.bundle.targets import Target
from ...runtime.bundle.weight_layout import Group
from ..targets.emits import emits
from . import describe, experts, passes
from .trace import quiet, trace


def build(
    config: Config,
    graph: Graph,
    groups: Mapping[str, Group],
    tensors: Mapping[str, Tensor],
    target: Target,
    *,
    data: Path,
    about: Mapping[str, str],
    dtype: str = "float32",
    opset: int | None = None,
) -> ir.Model:
    """One graph of the model over the tensors in `data`, which says in its properties what it is `about`.

    Raises ExportError if the exporter made a dynamic axis constant, dropped an initializer, or copied one
    into the graph.
    """
    groups = {name: group for name, group in groups.items() if graph.owns(name)}
    tensors = {name: tensor for name, tensor in tensors.items() if graph.owns(name)}
    emitted = {**emits(target, config), "mixture": experts.mixture}
    alike = experts.stored_alike(groups)
    traced = experts.traced(tensors, alike)
    model = trace(
        config,
        graph,
        experts.traced(groups, alike),
        traced,
        emitted,
        dtype=dtype,
        opset=opset or target.opset,
    )
    passes.name_weights(model, traced)
    with quiet():
        passes.optimize(model, traced)
    experts.repeat_all(model, tensors)
    passes.view_weights(model, tensors)
    passes.sum_three(model)
    passes.strip_notes(model)
    passes.check(model, graph, tensors)
    if operator_limits.cache(target, config) != "copied":
        passes.check_in_place(model)
    describe.name_nodes(model, groups, tensors)
    describe.explain(model, about)
    passes.point_weights(model, tensors, data)
    return model

"""Build one graph of a bundle: trace the graph, optimize it, check it, and point its weights to the data
file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from ...runtime.bundle.graph_io import Graph
from ...runtime.bundle.plan import Plan
from ..targets.emits import emits
from . import describe, experts, passes
from .trace import quiet, trace


def build(
    plan: Plan, graph: Graph, *, data: Path, about: Mapping[str, str], opset: int | None = None
) -> ir.Model:
    """Build and return one graph of the planned model. The graph reads its weights from the file `data`, and
    has the properties `about`.

    Raises ExportError if the exporter made a dynamic axis constant, dropped an initializer, or copied an
    initializer's data into the graph.
    """
    groups, tensors = graph.owned(plan.groups), graph.owned(plan.tensors)
    emitted = {**emits(plan.target, plan.config), "mixture": experts.mixture}
    alike = experts.stored_alike(groups)
    traced = experts.traced(tensors, alike)
    model = trace(
        plan.config,
        graph,
        experts.traced(groups, alike),
        traced,
        emitted,
        dtype=plan.dtype,
        opset=opset or plan.target.opset,
    )
    passes.name_weights(model, traced)
    with quiet():
        passes.optimize(model, traced)
    experts.repeat_all(model, tensors)
    passes.view_weights(model, tensors)
    passes.sum_three(model)
    passes.strip_notes(model)
    passes.check(model, graph, tensors)
    if plan.cache != "copied":
        passes.check_in_place(model)
    describe.name_nodes(model, groups, tensors)
    describe.explain(model, about)
    passes.point_weights(model, tensors, data)
    return model

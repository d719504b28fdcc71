"""Find out which runtimes can run a bundle after it is converted: to a layout, or to fixed shapes."""

from __future__ import annotations

import onnx_ir as ir

from ...refimpl.errors import ExportError
from ...runtime.analysis.bundle_runtimes import NPUS, RuntimeAnswer, answer, graph_row, layouts_lack
from ...runtime.bundle import targets
from ...runtime.bundle.bundle import Bundle
from ...runtime.bundle.graph_io import GRAPH
from ...runtime.bundle.manifest import DATA
from . import mobile, qnn, static
from .convert import find

# Sizes of a graph for NPUs, where a model can have them.
TIME, CAPACITY = 64, 2048


def of_layouts(bundle: Bundle) -> list[RuntimeAnswer]:
    """Return, for each runtime that a layout serves, how it runs the bundle or why it can't. `tfm-cli
    convert` writes the layouts.
    """
    answers = []
    for name, lacks in layouts_lack().items():
        if reason := find(name).refusal(bundle.config, targets.find(bundle.target)) or lacks:
            answers.append(RuntimeAnswer(name, reason=reason))
        else:
            row = graph_row(bundle)
            answers.append(answer(bundle, name, row, f"{row}, after tfm-cli convert --layout {name}"))
    return answers


def of_fixed_shapes(bundle: Bundle) -> list[RuntimeAnswer]:
    """Return how much of the graph with fixed shapes each mobile framework and NPU can compute."""
    context = bundle.config.context
    capacity = min(CAPACITY, context) if "decoder" in bundle.config.stacks else None
    sizes = static.Sizes(batch=1, time=min(TIME, context), capacity=capacity)
    if reason := static.refusal(sizes, bundle.config, targets.find(bundle.target)):
        return _refused(reason)
    try:
        models = static.graphs(sizes, bundle, bundle.path / DATA)
    except ExportError as error:
        return _refused(str(error))
    answers = [_of_graph(file, model) for file, model in models.items()]
    # Of several graphs each must be taken: the first reason is the model's.
    return [min(several, key=lambda one: one.reason is None) for several in zip(*answers, strict=True)]


def _of_graph(file: str, model: ir.Model) -> list[RuntimeAnswer]:
    answers, loss = [], "not checked: its products may have float16"
    of = "" if file == GRAPH else f"{file}: "
    for name, parts in mobile.partitions(model).items():
        if parts.advice == "no":
            answers.append(RuntimeAnswer(name, reason=f"{of}with fixed shapes it has {parts}"))
        else:
            answers.append(RuntimeAnswer(name, f"fixed shapes, {parts}", loss))
    reading = qnn.read(model)
    if reading.refused:
        reason = f"{of}with fixed shapes it doesn't take {'; '.join(reading.refused)}"
        return [*answers, RuntimeAnswer("QNN", reason=reason)]
    return [*answers, RuntimeAnswer("QNN", f"fixed shapes, {reading}", loss)]


def _refused(reason: str) -> list[RuntimeAnswer]:
    return [RuntimeAnswer(name, reason=reason) for name in NPUS]

"""What stops a family's graphs over kernels from promising the same bits, in int8; no weights are needed"""

from __future__ import annotations

import tempfile
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import onnx
from tfm.export.graph.write import GraphFiles, write
from tfm.refimpl.config import Config, Layer, MoE, Stack
from tfm.refimpl.params.parameter_shapes import ParameterShapes
from tfm.runtime.bundle import schemes, targets
from tfm.runtime.bundle.kernel_storage import GRAPHS
from tfm.runtime.bundle.plan import Plan
from tfm.runtime.bundle.same_bits import promise

from reports.layouts import shown

configs = cache(shown)


def stopped(name: str) -> str:
    """Why the same bits aren't promised, and nothing where they are: of the first published config of a
    family, or else its usual one."""
    plan = Plan.of(
        ParameterShapes(_smaller(configs()[name][0])), schemes.find("int8"), targets.find("ort-cpu")
    )
    if not plan.has_kernels:
        return "no kernels"
    with tempfile.TemporaryDirectory() as folder:
        write(GraphFiles(plan, None, Path(folder), about={}))
        files = (Path(folder) / name for name in GRAPHS.values())
        graphs = [onnx.load(file, load_external_data=False).graph for file in files if file.exists()]
    return promise((node.domain, node.op_type) for graph in graphs for node in graph.node).reason


def _smaller(config: Config) -> Config:
    """The Config with each of its layers once, unless one reads what another keeps, and with few experts."""
    stacks = {f.name: value for f in fields(config) if isinstance(value := getattr(config, f.name), Stack)}
    if all(layer.kv_layer is None for stack in stacks.values() for layer in stack.layers):
        stacks = {
            name: replace(stack, layers=tuple(dict.fromkeys(map(_with_few_experts, stack.layers))))
            for name, stack in stacks.items()
        }
    return replace(config, **stacks)


def _with_few_experts(layer: Layer) -> Layer:
    mlp = layer.mlp
    if not isinstance(mlp, MoE):
        return layer
    return replace(layer, mlp=replace(mlp, experts=mlp.groups.count * max(2, -(-mlp.top // mlp.groups.top))))

"""What stops graphs over kernels from promising the same bits, as a table of forms and schemes

    PYTHONPATH=tests python -m reports.promised_bits [--schemes int8 int8-dynamic int4] [NAME ...]

Prints the table for the tiny models of tests/helpers. `reports.checked --bits` asks it for families. No
weights are needed.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

import argparse
import tempfile
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import onnx
from tfm.export.graph.write import GraphFiles, write
from tfm.refimpl.config import Config, Layer, MoE, Stack
from tfm.refimpl.errors import ExportError
from tfm.refimpl.params.parameter_shapes import ParameterShapes
from tfm.runtime.bundle import schemes, targets
from tfm.runtime.bundle.kernel_storage import GRAPHS
from tfm.runtime.bundle.plan import Plan
from tfm.runtime.bundle.same_bits import promise

from reports.false_alarms import configs as tiny_configs
from reports.layouts import shown

SCHEMES = ("int8", "int8-dynamic", "int4")
configs = cache(shown)


def stopped(name: str) -> dict[str, str]:
    """By scheme, why the same bits aren't promised, and nothing where they are: of the first published config
    of a family, or else its usual one."""
    config = _smaller(configs()[name][0])
    return {scheme: stopped_config(config, scheme) for scheme in SCHEMES}


def parts(name: str) -> str:
    """The classes of the token mixers and mlps in the config of which `stopped` tells."""
    layers = [layer for stack in configs()[name][0].stacks.values() for layer in stack.layers]
    return ", ".join(sorted({type(part).__name__ for one in layers for part in (one.attention, one.mlp)}))


def stopped_config(config: Config, scheme: str) -> str:
    """Why a model's bundle over kernels doesn't promise the same bits in a scheme; nothing where it does."""
    plan = Plan.of(ParameterShapes(config), schemes.find(scheme), targets.find("ort-cpu"))
    if not plan.has_kernels:
        return "no kernels"
    with tempfile.TemporaryDirectory() as folder:
        write(GraphFiles(plan, None, Path(folder), about={}))
        files = (Path(folder) / name for name in GRAPHS.values())
        graphs = [onnx.load(file, load_external_data=False).graph for file in files if file.exists()]
    return promise(((node.domain, node.op_type) for graph in graphs for node in graph.node), config).reason


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


def main() -> None:
    parser, models = argparse.ArgumentParser(description=__doc__), tiny_configs()
    parser.add_argument("names", nargs="*", default=list(models))
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    options = parser.parse_args()
    print(f"| tiny model | {' | '.join(f'`{scheme}`' for scheme in options.schemes)} |")
    print(f"|---|{'---|' * len(options.schemes)}")
    for name in options.names:
        cells = []
        for scheme in options.schemes:
            try:
                reason = stopped_config(models[name], scheme)
            except ExportError:
                reason = "no bundle"
            cells.append(reason.removesuffix(" of ONNX Runtime") or "yes")
        print(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

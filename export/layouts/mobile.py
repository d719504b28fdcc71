"""Show into how many parts mobile frameworks cut a graph of fixed shapes, according to ONNX Runtime's
checker.

The checker considers operators, shapes and ranks, but not the further conditions of each operator. The
checker recommends a framework if one part has more than three quarters of the nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

ML_PROGRAM = "coreml_supported_mlprogram_ops.md"


@dataclass(frozen=True)
class Parts:
    """How much of a graph a mobile framework can compute, according to ONNX Runtime's checker.

    - `count`: the number of parts of the graph that the framework computes.
    - `nodes`: the number of nodes in these parts, and `all_nodes`: the number of nodes in the graph.
    - `others`: the operators of the nodes outside these parts.
    - `advice`: whether the checker recommends the framework: yes, maybe or no.
    """

    count: int
    nodes: int
    all_nodes: int
    others: tuple[str, ...]
    advice: str

    def __str__(self) -> str:
        plural = "" if self.count == 1 else "s"
        missing = f", not {', '.join(self.others)}" if self.others else ""
        return f"{self.nodes} of {self.all_nodes} nodes in {self.count} part{plural}{missing}"


def partitions(model: ir.Model) -> dict[str, Parts]:
    """Return which parts of a graph each framework can compute: Android's NNAPI, and Apple's CoreML in the
    form of an ML Program.

    Needs `value_info` of all values.
    """
    from onnxruntime.tools.mobile_helpers import usability_checker

    proto = ir.to_proto(model)
    checks: dict[str, Callable[[], Any]] = {
        "NNAPI": lambda: usability_checker.check_nnapi_partitions(proto, True),
        "CoreML": lambda: usability_checker.check_coreml_partitions(proto, True, ML_PROGRAM),
    }
    found = {}
    for name, check in checks.items():
        info = check()
        others = sorted(operator.removeprefix("ai.onnx:") for operator in info.unsupported_ops)
        advice = info.suitability().name.lower()
        sizes = info.num_partitions, info.num_supported_nodes, info.num_nodes
        found[name] = Parts(*sizes, tuple(others), advice)
    return found

"""Where ONNX Runtime's CUDA provider places the nodes of a graph, told by a process over stubs of CUDA.

`python -m helpers.cuda_placement MODEL` is that process: its log has nodes and copies, its output the rest.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfm.refimpl.config import Config

# Of the wheel for Linux and x86-64; others have none.
PROVIDER = Path(str(find_spec("onnxruntime").origin)).parent / "capi" / "libonnxruntime_providers_cuda.so"
# What sizes are computed with, on the CPU: ONNX Runtime puts it there, as that is where operators read them.
SIZES = frozenset(("Add", "Cast", "Concat", "Div", "Mod", "Mul", "Reshape", "Squeeze", "Sub"))
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
PLACED_ON = re.compile(r"(?:All nodes|Node\(s\)) placed on \[(\w+)\]\. Number of nodes: (\d+)")
BEGINNING = "Initializing session."
NODE = re.compile(r"VerifyEachNodeIsAssignedToAnEp\]\s+(\w+) \((.*)\)$")
# Operators whose outputs' sizes, or whose parts that run, follow from numbers: the host waits for these.
WAITS = frozenset(("Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Scan", "Unique"))
COPIED = re.compile(r"AddCopyNode\] Add Memcpy\w+ (?:before|after) (\S+) for")


@dataclass(frozen=True)
class Placement:
    """The operators of the nodes on the CPU, those that the host waits for, the values that are copied, what
    ONNX Runtime says against capturing the graph, if anything, and how many kernels were launched when the
    session was opened."""

    on_cpu: list[str]
    waits: list[str]
    copied: list[str]
    capture: str
    launches: int


def environment(stubs: Path) -> dict[str, str]:
    """Of a child process over stubs, which can import helpers."""
    return {**os.environ, "LD_LIBRARY_PATH": str(stubs), "PYTHONPATH": str(Path(__file__).parents[1])}


def place(model: Path, stubs: Path) -> Placement:
    """The placement of a graph; AssertionError where the log isn't as ONNX Runtime 1.31 writes it."""
    import onnx

    child = subprocess.run(
        [sys.executable, "-m", __name__, str(model)],
        env=environment(stubs),
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert child.returncode == 0, child.stderr[-2000:]
    nodes: dict[str, list[str]] = {CPU: []}  # those of several providers are listed, of a single one counted
    counts: dict[str, int] = {}
    on = ""
    log = child.stderr.rpartition(BEGINNING)[2]
    for line in log.splitlines():
        if found := PLACED_ON.search(line):
            on = found[1]
            counts[on] = int(found[2])
        elif found := NODE.search(line):
            nodes.setdefault(on, []).append(found[1])
    assert counts.get(CUDA), log[-2000:]
    assert len(nodes[CPU]) == counts.get(CPU, 0), log[-2000:]
    waits = {node.op_type for node in onnx.load(model, load_external_data=False).graph.node} & WAITS
    return Placement(nodes[CPU], sorted(waits), COPIED.findall(log), **json.loads(child.stdout))


def write_graphs(config: Config, quant: str, folder: Path) -> list[Path]:
    """The graphs of a model for ort-cuda, over weights of zeros: placement needs no numbers."""
    from tfm.export.graph.write import GraphFiles, write
    from tfm.refimpl.params.parameter_shapes import ParameterShapes
    from tfm.runtime.bundle import schemes, targets
    from tfm.runtime.bundle.manifest import DATA
    from tfm.runtime.bundle.plan import Plan

    plan = Plan.of(ParameterShapes(config), schemes.find(quant), targets.find("ort-cuda"))
    write(GraphFiles(plan, None, folder, about={}))
    with open(folder / DATA, "wb") as data:
        data.truncate(plan.size)
    return sorted(folder.glob("*.onnx"))


def place_all(config: Config, quant: str, folder: Path, stubs: Path) -> dict[str, Placement]:
    """The placements of a model's graphs, by file."""
    return {graph.name: place(graph, stubs) for graph in write_graphs(config, quant, folder)}


def problems(config: Config, placements: Mapping[str, Placement]) -> list[str]:
    """What of a model's graphs isn't as its bundle says, in a few words each.

    All nodes are on the GPU but those that compute sizes, nothing is copied, and what is to be captured has
    nothing that the host waits for and is accepted.
    """
    from tfm.runtime.bundle import operator_limits
    from tfm.runtime.bundle.graph_io import GRAPH

    copied = sum(len(placement.copied) for placement in placements.values())
    on_cpu = {name for placement in placements.values() for name in placement.on_cpu} - SIZES
    found = [f"values are copied ({copied})"] * bool(copied)
    found += [f"on the CPU: {', '.join(sorted(on_cpu))}"] * bool(on_cpu)
    if "decoder" in config.stacks and operator_limits.capture(config) is None:
        step = placements[GRAPH]
        found += [f"a captured step waits for {', '.join(step.waits)}"] * bool(step.waits)
        found += [f"a capture is refused: {step.capture}"] * bool(step.capture)
    return found


def main(model: str) -> None:
    from tfm.refimpl.errors import BundleError
    from tfm.runtime.ort.session import open_session, options

    from helpers.cuda_stubs import counts

    def opened(capture: bool) -> None:
        told = options()
        told.log_severity_level, told.log_verbosity_level = 0, 1
        open_session(Path(model), "cuda", told, capture=capture)

    refused = ""
    try:
        opened(capture=True)
    except BundleError as error:
        refused = str(error)
        opened(capture=False)  # a session that is refused doesn't list its nodes
    print(json.dumps({"capture": refused, "launches": counts()["launched"]}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1])

"""Targets: what a bundle's graph is made for, as records.

Which of a target's operators a model can have is in `runtime.bundle.operator_limits`; `export.targets` emits
them.
Only the standard library is imported here, because the command line takes its choices from here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from ...refimpl.errors import ExportError

TargetName = Literal["ort-cpu", "ort-cuda", "ort-web", "standard"]
FloatType = Literal["float32", "float16"]
Device = Literal["cpu", "cuda"]
# How a graph keeps its cache from step to step, see `runtime.bundle.manifest`.
CacheForm = Literal["shared", "windowed", "copied", "none"]


@dataclass(frozen=True)
class Storage:
    """How weights are stored in a graph (`runtime.bundle.weight_storage`).

    `joins`: matrices that multiply one input are stored as one. `blocks`: packed for MatMulNBits, or codes
    for DequantizeLinear. `activations`: how a product with blocks quantizes its input. `static_inputs`:
    inputs may have 8-bit codes with a scale that was chosen beforehand. `symmetric_block`: the only length of
    blocks that fast products take, without zero points; None where they take those of the scheme.
    `tables_by_row`: where matrices have 8 bits a column, so has a table that is multiplied, by its rows.
    """

    joins: bool
    blocks: Literal["nbits", "blocked"]
    activations: Literal["none", "block"]
    static_inputs: bool
    symmetric_block: int | None = None
    tables_by_row: bool = False


@dataclass(frozen=True)
class Target:
    """Where a graph runs, and which operators, types and caches it may have.

    `device` is None where any will do, `floats` None where the scheme chooses them. `fused` says that
    attention is an operator of ONNX Runtime where its limits allow. `row_lengths` says that what it needs to
    know of each row's length are inputs of the graph: computed there, they are copied between a GPU and the
    CPU at each step, and a step with copies can't be captured. `float_cache` says why keys and values
    can't be kept in 8 bits; None where they can.
    """

    name: TargetName
    opset: int
    storage: Storage
    device: Device | None = None
    floats: FloatType | None = None
    fused: bool = False
    row_lengths: bool = False
    float_cache: str | None = None


PACKED = Storage(joins=True, blocks="nbits", activations="block", static_inputs=False)
# CUDA's products dequantize blocks and multiply floats; the fast ones are for these blocks
# (`runtime.ort.session`).
SYMMETRIC = Storage(joins=True, blocks="nbits", activations="none", static_inputs=False, symmetric_block=32)
# WebAssembly has products of integers for columns alone: of blocks it makes floats at each step.
COLUMNS = replace(PACKED, tables_by_row=True)
DEQUANTIZED = Storage(joins=False, blocks="blocked", activations="none", static_inputs=True)

_ALL = (
    Target("ort-cpu", opset=23, storage=PACKED, device="cpu", fused=True),
    Target(
        "ort-cuda",
        opset=23,
        storage=SYMMETRIC,
        device="cuda",
        floats="float16",
        fused=True,
        row_lengths=True,
        float_cache="it was never tried on a GPU",
    ),
    Target("ort-web", opset=23, storage=COLUMNS, device="cpu", fused=True),
    Target("standard", opset=21, storage=DEQUANTIZED, float_cache="its attention reads a cache of floats"),
)
TARGETS: dict[str, Target] = {target.name: target for target in _ALL}


def find(name: str) -> Target:
    """The target of that name; ExportError when there is none."""
    if name not in TARGETS:
        raise ExportError(f"target must be one of {', '.join(TARGETS)}, got {name!r:.40}")
    return TARGETS[name]


def for_device(device: Device) -> Target:
    """The target that is made for a device."""
    return next(target for target in _ALL if target.device == device)

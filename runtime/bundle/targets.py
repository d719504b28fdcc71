"""Targets: records of what a bundle's graph is made for.

`runtime.bundle.operator_limits` decides which of a target's operators a model can use, and `export.targets`
emits them. Only the standard library is imported here, because the command line imports this module to list
its choices.
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
    """The options for storing weights in a target's graph (`runtime.bundle.weight_storage`).

    - `joins`: matrices that multiply the same input are stored as one.
    - `blocks`: whether blocks are packed for MatMulNBits, or stored as codes for DequantizeLinear.
    - `activations`: how a product with blocks quantizes its input.
    - `static_inputs`: inputs may have 8-bit codes with a scale that was chosen beforehand.
    - `symmetric_block`: the only block length for fast products, whose blocks then have no zero points. None
      if fast products take the scheme's blocks.
    - `tables_by_row`: if matrices have one scale per column, a table that is multiplied has one scale per
      row.
    """

    joins: bool
    blocks: Literal["nbits", "blocked"]
    activations: Literal["none", "block"]
    static_inputs: bool
    symmetric_block: int | None = None
    tables_by_row: bool = False


@dataclass(frozen=True)
class Target:
    """A target: it says where a graph runs, and which operators, types and caches the graph may have.

    - `device`: the device on which the graph runs; None if any device can run it.
    - `floats`: the type of all floats; None if the scheme chooses the type.
    - `fused`: attention is an operator of ONNX Runtime, within that operator's limits.
    - `row_lengths`: the lengths of rows that attention needs are inputs of the graph. If the graph computed
      these lengths, they would be copied between GPU and CPU at each step, and a GPU can't capture a step
      with copies.
    - `float_cache`: the reason why keys and values can't be kept in 8 or 4 bits; None if they can.
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
    """Return the target with this name. Raises ExportError if there is none."""
    if name not in TARGETS:
        raise ExportError(f"target must be one of {', '.join(TARGETS)}, got {name!r:.40}")
    return TARGETS[name]


def for_device(device: Device) -> Target:
    """Return the target that is made for a device."""
    return next(target for target in _ALL if target.device == device)

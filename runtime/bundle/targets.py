"""Define the targets: records that say for which runtime and device a bundle's graph is made.

`runtime.bundle.operator_limits` decides which of a target's operators a model can use, and
`export.targets` writes these operators. The command line imports this module to list its choices, so this
module imports only the standard library.
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

    - `joins`: matrices that multiply the same input are stored as one matrix.
    - `blocks`: "nbits" packs blocks for MatMulNBits, and "blocked" stores codes for DequantizeLinear.
    - `activations`: how a product with blocks quantizes its input.
    - `static_inputs`: inputs may have 8-bit codes with a scale that was chosen before the run.
    - `symmetric_block`: the only block length for which the target has fast products. Such blocks have no
      zero points. None means that fast products accept the scheme's blocks.
    - `tables_by_row`: if matrices have one scale per column, a table that the model multiplies by has one
      scale per row.
    """

    joins: bool
    blocks: Literal["nbits", "blocked"]
    activations: Literal["none", "block"]
    static_inputs: bool
    symmetric_block: int | None = None
    tables_by_row: bool = False


@dataclass(frozen=True)
class Target:
    """A target: the device on which a graph runs, and the operators, types and caches that the graph may use.

    - `opset`: the version of ONNX's operator set.
    - `storage`: how weights are stored.
    - `device`: the device on which the graph runs; None if any device can run it.
    - `floats`: the type of all floats; None if the scheme chooses the type.
    - `fused`: attention is an operator of ONNX Runtime, if that operator can compute it.
    - `row_lengths`: the lengths of rows are inputs of the graph, because attention needs them. If the graph
      computed these lengths, each step would copy them between GPU and CPU, and a GPU can't capture a step
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
        float_cache="quantized keys and values were never tested on a GPU",
    ),
    Target("ort-web", opset=23, storage=COLUMNS, device="cpu", fused=True),
    Target(
        "standard",
        opset=21,
        storage=DEQUANTIZED,
        float_cache="the attention of this target reads keys and values as floats",
    ),
)
TARGETS: dict[str, Target] = {target.name: target for target in _ALL}


def find(name: str) -> Target:
    """Return the target with this name. Raises ExportError if there is none."""
    if name not in TARGETS:
        raise ExportError(f"target must be one of {', '.join(TARGETS)}, got {name!r:.40}")
    return TARGETS[name]


def for_device(device: Device) -> Target:
    """Return the target that is made for this device."""
    return next(target for target in _ALL if target.device == device)

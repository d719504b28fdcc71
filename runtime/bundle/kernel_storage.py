"""How weights lie for tfm's own kernels, and what their graphs are called. Part of the format.

kernels.onnx has the names of the stored tensors, and reads them from kernels.data, which no bundle holds: the
runtime writes it from model.onnx.data (`store`). A matrix of blocks of 16, 32, 64 or 128 is cut into tiles of
16 outputs, the last one filled up with zeros. With F outputs in T tiles and C blocks to an output, where
kind nbits has X.packed, X.scale, X.zero and X.minimum (`runtime.bundle.weight_storage`), there are

    X.packed  uint8 [T, C·block·bits/32, 16, 4]   of 16 outputs 4 inputs each, side by side; with 4 bits
                                                  inputs k to k+3 in the low halves, k+4 to k+7 above them
    X.scale   float32 [T, C, 16], or float16 where the manifest names X in `half_scales`
    X.zero    uint8 [T, C, 16]
    X.minimum float32 [T, C, 16], or float16 in `half_scales`: minimum − 8·scale with 4 bits, − 16·scale
              with 8. That is the lowest number of a block of Q4_1 or Q5_1, as their files have it

A matrix of kind row with D inputs, at most 2^16, is cut in the same way, its inputs filled up to a multiple
of 16:

    X.codes   uint8 [T, ceil(D/16)·4, 16, 4]   with 128 added
    X.scale   float32 [T, 16]

All other tensors are as they are stored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from ...refimpl.errors import BundleError
from . import weight_storage
from .graph_io import ENCODER, GRAPH, MTP
from .operators import OPERATORS
from .weight_storage import Group, Spec

Array = np.ndarray
# The graphs over kernels, by the graph that each stands for.
GRAPHS = {GRAPH: "kernels.onnx", ENCODER: "encoder.kernels.onnx", MTP: "mtp.kernels.onnx"}
DATA = "kernels.data"
DOMAIN = "tfm"
KERNELS = frozenset(
    {
        "BlockLinear",
        "BlockSwiGLU",
        "RowLinear",
        "BlockGather",
        "Attention",
        "SharedAttention",
        "TextAttention",
        "CausalConv",
        "LinearAttention",
        "ExpertLinear",
        "ExpertSwiGLU",
        "ExpertSum",
        "SwiGLU",
        "Gelu",
        "GeluTanh",
        "Tanh",
        "Sigmoid",
        "SiLU",
        "Softmax",
        "RowSum",
        "FloatLinear",
        "AddRMSNorm",
        "RMSNorm",
        "AddLayerNorm",
        "LayerNorm",
    }
)
KERNEL_OPERATORS = {**OPERATORS, DOMAIN: KERNELS}
TILE = 16
LOWEST = {4: 8, 8: 16}  # scales from a block's minimum down to its lowest number, by bits
BLOCKS = (16, 32, 64, 128)
LONGEST_ROW = 2**16  # a sum of so many products of bytes fits 32 bits


class Halves(NamedTuple):
    """What the kernels of a bundle have in float16: keys and values; scales and minima of these groups."""

    cache: bool = False
    scales: tuple[str, ...] = ()


def is_tiled(group: Group) -> bool:
    """Whether the kernels multiply with a group of weights."""
    if group.kind == "row":
        return group.length <= LONGEST_ROW
    return group.kind == "nbits" and group.format is not None and group.format.block in BLOCKS


def has_scales(group: Group) -> bool:
    """Whether the kernels read a scale for each block of a group, which float16 may hold."""
    return is_tiled(group) and group.kind == "nbits"


def has_half_scales(group: Group, stored: Mapping[str, Array]) -> bool:
    """Whether all scales and lowest numbers of a group's blocks are float16 numbers, as `store` has them."""
    return has_scales(group) and _halves(group, stored) is not None


def _halves(group: Group, stored: Mapping[str, Array]) -> tuple[Array, Array | None] | None:
    """The scales and lowest numbers [F, C] of a group in float16; None where it can't hold one of them."""
    assert group.format is not None
    scale, minimum = stored[f"{group.name}.scale"], _minima(group, stored)
    if (scales := _as_halves(scale)) is None or minimum is None:
        return None if scales is None else (scales, None)
    shift = np.float32(LOWEST[group.format.bits]) * scale
    with np.errstate(over="ignore"):
        lowest = (minimum - shift).astype(np.float16)
    return (scales, lowest) if np.array_equal(lowest + shift, minimum) else None


def _minima(group: Group, stored: Mapping[str, Array]) -> Array | None:
    """The minima of a group by outputs, [F, C]; None where it has none."""
    minimum = stored.get(f"{group.name}.minimum")
    return minimum if minimum is None or group.axis == 1 else minimum.T


def _as_halves(scale: Array) -> Array | None:
    """The same numbers in float16; None where it can't hold one of them."""
    with np.errstate(over="ignore"):
        halves = scale.astype(np.float16)
    return halves if np.array_equal(halves, scale) else None


def specs(group: Group, dtype: str, half_scales: Collection[str] = ()) -> dict[str, Spec]:
    """Tensor name -> Spec of a group's tensors in kernels.data, where these groups have scales in float16."""
    stored = weight_storage.specs(group, dtype)
    if not is_tiled(group):
        return stored
    assert group.format is not None
    tiles, blocks = -(-group.width // TILE), -(-group.length // group.format.block)
    if group.kind == "row":
        return stored | {
            f"{group.name}.codes": Spec("uint8", (tiles, -(-group.length // TILE) * TILE // 4, TILE, 4)),
            f"{group.name}.scale": Spec(dtype, (tiles, TILE)),
        }
    codes = (tiles, blocks * group.format.block * group.format.bits // 32, TILE, 4)
    per_block = (tiles, blocks, TILE)
    tiled = {"packed": Spec("uint8", codes), "zero": Spec("uint8", per_block)}
    tiled["scale"] = tiled["minimum"] = Spec("float16" if group.name in half_scales else dtype, per_block)
    return {name: tiled.get(name.removeprefix(f"{group.name}."), spec) for name, spec in stored.items()}


def store(group: Group, stored: Mapping[str, Array], half_scales: Collection[str] = ()) -> dict[str, Array]:
    """A group's tensors for kernels.data, from those of model.onnx.data; C-contiguous.

    Raises BundleError for a group of `half_scales` that float16 has no room for.
    """
    if not is_tiled(group):
        return dict(stored)
    if group.kind == "row":
        return {**stored, **_row_tiles(group, stored)}
    assert group.format is not None
    bits, tiles = group.format.bits, -(-group.width // TILE)
    blocks = -(-group.length // group.format.block)
    parts = {name: f"{group.name}.{name}" for name in ("packed", "scale", "zero", "minimum")}
    packed = _filled(stored[parts["packed"]].reshape(group.width, -1), tiles)
    if bits == 8:
        codes = packed.reshape(tiles, TILE, -1, 4).transpose(0, 2, 1, 3)
    else:
        # Two neighbours to a byte become four neighbours to four bytes, and the next four above them.
        pairs = packed.reshape(tiles, TILE, -1, 4)
        inputs = np.stack([pairs & 15, pairs >> 4], axis=-1).reshape(tiles, TILE, -1, 2, 4)
        codes = (inputs[..., 0, :] | inputs[..., 1, :] << 4).transpose(0, 2, 1, 3)
    result = {**stored, parts["packed"]: np.ascontiguousarray(codes)}
    scale, minimum = stored[parts["scale"]], _minima(group, stored)
    if group.name in half_scales:
        if (halves := _halves(group, stored)) is None:
            raise BundleError(f"{parts['scale']} must hold float16 numbers, it has others: export it again")
        scale, minimum = halves
    result[parts["scale"]] = _by_tile(scale, tiles)
    if minimum is not None:
        result[parts["minimum"]] = _by_tile(minimum, tiles)
    if (zero := stored.get(parts["zero"])) is not None:
        result[parts["zero"]] = _by_tile(weight_storage.unpack(zero, bits, blocks), tiles)
    return result


def _row_tiles(group: Group, stored: Mapping[str, Array]) -> dict[str, Array]:
    codes, scale = f"{group.name}.codes", f"{group.name}.scale"
    tiles = -(-group.width // TILE)
    rows = _filled((stored[codes].view(np.uint8) ^ 128).T, tiles)
    rows = np.pad(rows, ((0, 0), (0, -group.length % TILE)))
    return {
        codes: np.ascontiguousarray(rows.reshape(tiles, TILE, -1, 4).transpose(0, 2, 1, 3)),
        scale: _filled(stored[scale][:, None], tiles).reshape(tiles, TILE),
    }


def _filled(rows: Array, tiles: int) -> Array:
    """The rows, and zeros up to whole tiles."""
    return np.pad(rows, ((0, tiles * TILE - len(rows)), (0, 0)))


def _by_tile(rows: Array, tiles: int) -> Array:
    """[F, C] -> [T, C, 16]."""
    return np.ascontiguousarray(_filled(rows, tiles).reshape(tiles, TILE, -1).transpose(0, 2, 1))

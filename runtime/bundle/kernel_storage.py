"""Define how weights are laid out for tfm's own kernels, and name the kernels' graphs. Part of the format.

kernels.onnx uses the names of the stored tensors, and reads these tensors from kernels.data. No bundle
contains kernels.data: the runtime writes kernels.data from model.onnx.data (`store`). A matrix in blocks
of 16, 32, 64 or 128 is cut into tiles of 16 outputs. The last tile is filled up with zeros. A matrix with
F outputs has T tiles, and each output has C blocks. The tensors X.packed, X.scale, X.zero and X.minimum of
kind nbits (`runtime.bundle.weight_storage`) are replaced by:

    X.packed  uint8 [T, C·block·bits/32, 16, 4]   for each of 16 outputs 4 inputs, side by side; with 4 bits,
                                                  inputs k to k+3 in the low halves of the bytes, and
                                                  k+4 to k+7 in the high halves
              [T, C·block/16, 32·bits]            with 2, 5 and 6 bits: for each 16 inputs, first the low 2
                                                  or 4 bits of each code, and then the remaining bits
                                                  (`kernels/source/planes.h`)
    X.scale   float32 [T, C, 16], or float16, or int8 for coded scales
    X.zero    uint8 [T, C, 16]
    X.minimum the type of X.scale. With float32 it contains the minima. With float16 and int8 it contains the
              lowest number of each block, as a file stores it: minimum − 2^(bits − 1)·scale, and with 8 bits
              minimum − 16·scale (Q4_1 and Q5_1; in codes Q2_K, Q4_K, Q5_K)
    X.table   uint8 [16]  the 8-bit codes that occur, in rising order; X.packed then contains 4-bit indices
              into this table. IQ4, FP4 and the grids of IQ1 to IQ3 have such codes
    X.factor  float16 [T, D/256, 16], or [T, D/256, 2, 16] with X.minimum: the number by which the codes of
              scales, and those of lowest numbers, are multiplied; one for every 256 inputs
              (`refimpl.calibrate.coded_scales`)

The manifest's `kernel_forms` states bits and types. A group without an entry there has the bits and types
of its stored tensors. Codes of fewer bits are counted from the middle of their range, like the stored
codes.

A matrix of kind row with D inputs, at most 2^16, is cut into tiles too. Its inputs are filled up to a
multiple of 16:

    X.codes   uint8 [T, ceil(D/16)·4, 16, 4]   with 128 added
    X.scale   float32 [T, 16]

All other tensors are unchanged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from ...refimpl.calibrate.coded_scales import coded_scales
from ...refimpl.engine.cache_kinds import Halved
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
        "Softplus",
        "Exp",
        "Sqrt",
        "Softmax",
        "RowSum",
        "TokenSum",
        "FloatLinear",
        "MatMul",
        "Log",
        "Sin",
        "Cos",
        "AddRMSNorm",
        "RMSNorm",
        "AddLayerNorm",
        "LayerNorm",
    }
)
KERNEL_OPERATORS = {**OPERATORS, DOMAIN: KERNELS}
TILE = 16
BLOCKS = (16, 32, 64, 128)
WIDTHS = (2, 4, 5, 6, 8)  # bits of a code; those of 3 were slower than in 4, on AVX2 by a fifth
SUPER = 256  # inputs of a factor
CHUNK = 2**20  # codes looked at together
AT_ONCE = 64  # tiles whose codes are moved together
LONGEST_CODED = 64  # a code and its share of a factor are less than a float16 number
LONGEST_ROW = 2**16  # a sum of so many products of bytes fits 32 bits


@dataclass(frozen=True)
class KernelForm:
    """The form in which the kernels read a group of blocks: the bits of a code, and the types of scales and
    minima.

    With `table`, the codes are indices into a table of 16 values.
    """

    bits: int
    scales: Literal["float32", "float16", "codes"] = "float32"
    table: bool = field(default=False, metadata={"optional": True})


class InKernels(NamedTuple):
    """Choices for the kernels that depend on the values of the weights.

    - `halved`: which keys and values the kernels keep in float16.
    - `forms`: a dict from each group that the kernels read in another form than the stored one to this form.
    """

    halved: Halved = ""
    forms: Mapping[str, KernelForm] = MappingProxyType({})


def is_tiled(group: Group) -> bool:
    """Return whether tfm's kernels multiply by this group of weights. kernels.data stores such a group in
    tiles.
    """
    if group.kind == "row":
        return group.length <= LONGEST_ROW
    return group.kind == "nbits" and group.format is not None and group.format.block in BLOCKS


def lowest(bits: int) -> int:
    """Return how many scales lie between the lowest weight that a block can represent and the block's
    `minimum`.

    A block's weights are minimum + scale · (code − middle), and the lowest code is 0, so the result is the
    middle. With 8 bits the result is 16, because a bundle stores GGUF's 5-bit codes (0 to 31) in 8 bits.
    """
    return 16 if bits == 8 else 2 ** (bits - 1)


def has_scales(group: Group) -> bool:
    """Return whether the kernels read one scale per block of this group. Such scales may be stored as
    float16.
    """
    return is_tiled(group) and group.kind == "nbits"


def stored_form(group: Group) -> KernelForm:
    """Return the kernels' form of a group for which the manifest's `kernel_forms` states no other form."""
    assert group.format is not None
    return KernelForm(group.format.bits)


def is_possible(group: Group, form: KernelForm) -> bool:
    """Return whether the format allows the kernels to read this group in this form. The numbers of the group
    aren't looked at.
    """
    assert group.format is not None
    fits = form.bits in WIDTHS and form.bits <= group.format.bits
    even = form.bits == group.format.bits or group.format.symmetric
    if form.table and (form.bits, group.format.bits, group.format.minimum) != (4, 8, False):
        return False
    return fits and even and (form.scales != "codes" or _may_be_coded(group))


def _may_be_coded(group: Group) -> bool:
    assert group.format is not None
    return group.length % SUPER == 0 and group.format.block <= LONGEST_CODED


def form(group: Group, stored: Mapping[str, Array]) -> KernelForm:
    """Return the form with the fewest bytes that represents a group's blocks exactly.

    `stored` are the group's tensors of model.onnx.data.
    """
    bits = _fewest_bits(group, stored)
    table = bits > 4 and _table(group, stored) is not None
    if _coded(group, stored, bits) is not None:
        scales = "codes"
    else:
        scales = "float32" if _halves(group, stored, bits) is None else "float16"
    return KernelForm(4 if table else bits, scales, table)


def alike(forms: Mapping[str, KernelForm]) -> dict[str, KernelForm]:
    """Give all experts of a mixture the same form, because one operator reads all experts. Returns the
    changed forms.

    If the experts' forms differ, each expert gets the widest form among them.
    """
    mixtures: dict[str, list[str]] = {}
    for name in forms:
        mixtures.setdefault(re.sub(r"\.experts\.\d+\.", ".experts.", name), []).append(name)
    made = dict(forms)
    for names in mixtures.values():
        own = [forms[name] for name in names]
        if len({(one.bits, one.scales == "codes", one.table) for one in own}) > 1:
            made |= dict.fromkeys(names, KernelForm(max(8 if one.table else one.bits for one in own)))
    return made


def _fewest_bits(group: Group, stored: Mapping[str, Array]) -> int:
    """Return the fewest bits in which all codes of a group fit, counted from the middle. With zero points,
    return the stored number of bits.
    """
    assert group.format is not None
    bits, packed = group.format.bits, stored[f"{group.name}.packed"]
    if f"{group.name}.zero" in stored:
        return bits
    lows = [packed] if bits == 8 else [packed & 15, packed >> 4]
    below = 2 ** (bits - 1) - min(int(part.min()) for part in lows)
    above = max(int(part.max()) for part in lows) - 2 ** (bits - 1)
    return next(fewer for fewer in WIDTHS if below <= 2 ** (fewer - 1) > above)


def _table(group: Group, stored: Mapping[str, Array]) -> Array | None:
    """Return the different codes of a group in rising order, [16], with the last code repeated. Return None
    if the group has more than 16 codes, or zero points.
    """
    assert group.format is not None
    if group.format.bits != 8 or group.format.minimum or not group.format.symmetric:
        return None
    packed, seen = stored[f"{group.name}.packed"].reshape(-1), np.zeros(256, bool)
    for start in range(0, packed.size, CHUNK):
        seen[packed[start : start + CHUNK]] = True
        if np.count_nonzero(seen) > TILE:
            return None
    codes = np.flatnonzero(seen).astype(np.uint8)
    return np.pad(codes, (0, TILE - len(codes)), mode="edge")


def _coded(group: Group, stored: Mapping[str, Array], bits: int) -> list[tuple[Array, Array]] | None:
    """Return codes [F, C] and factors [F, S] of a group's scales, and then of its minima if there are any.
    Return None if the numbers can't be written as codes.
    """
    assert group.format is not None
    together = SUPER // group.format.block
    if not _may_be_coded(group):
        return None
    scale, minimum = stored[f"{group.name}.scale"], _minima(group, stored)
    parts: list[tuple[Array, Array | None]] = [(scale, None)]
    if minimum is not None:
        parts.append((minimum, np.float32(lowest(bits)) * scale))
    found = []
    for part, base in parts:
        for rows in (slice(0, TILE), slice(None)):  # most that have none show it at once
            codes, factors = coded_scales(
                np.ascontiguousarray(part[rows]), None if base is None else base[rows], together
            )
            if np.isnan(factors).any():
                return None
        found.append((codes, factors))
    return found


def _halves(group: Group, stored: Mapping[str, Array], bits: int) -> tuple[Array, Array | None] | None:
    """Return the scales and lowest numbers [F, C] of a group in float16; None if float16 can't represent one
    of them.
    """
    scale, minimum = stored[f"{group.name}.scale"], _minima(group, stored)
    if (scales := _as_halves(scale)) is None or minimum is None:
        return None if scales is None else (scales, None)
    shift = np.float32(lowest(bits)) * scale
    with np.errstate(over="ignore"):
        numbers = (minimum - shift).astype(np.float16)
    return (scales, numbers) if np.array_equal(numbers + shift, minimum) else None


def _minima(group: Group, stored: Mapping[str, Array]) -> Array | None:
    """Return the minima of a group as [F, C], a row per output; None if the group has no minima."""
    minimum = stored.get(f"{group.name}.minimum")
    return minimum if minimum is None or group.axis == 1 else minimum.T


def _as_halves(scale: Array) -> Array | None:
    """Return the numbers in float16; None if float16 can't represent one of them."""
    with np.errstate(over="ignore"):
        halves = scale.astype(np.float16)
    return halves if np.array_equal(halves, scale) else None


def specs(group: Group, dtype: str, forms: Mapping[str, KernelForm]) -> dict[str, Spec]:
    """Return a dict from the name of each tensor of a group in kernels.data to its type and shape.

    `dtype` is the float type of the bundle. `forms` gives the kernels' forms of groups by name.
    """
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
    own = forms.get(group.name, stored_form(group))
    per_block, inputs = (tiles, blocks, TILE), blocks * group.format.block
    even = (tiles, inputs * own.bits // 32, TILE, 4)
    codes = even if own.bits in (4, 8) else (tiles, inputs // TILE, 2 * TILE * own.bits)
    tiled = {"packed": Spec("uint8", codes), "zero": Spec("uint8", per_block)}
    scales = {"float32": dtype, "float16": "float16", "codes": "int8"}[own.scales]
    tiled["scale"] = tiled["minimum"] = Spec(scales, per_block)
    result = {name: tiled.get(name.removeprefix(f"{group.name}."), spec) for name, spec in stored.items()}
    if own.table:
        result[f"{group.name}.table"] = Spec("uint8", (TILE,))
    if own.scales == "codes":
        pair = (2,) if group.format.minimum else ()
        result[f"{group.name}.factor"] = Spec("float16", (tiles, inputs // SUPER, *pair, TILE))
    return result


def store(group: Group, stored: Mapping[str, Array], forms: Mapping[str, KernelForm]) -> dict[str, Array]:
    """Return the arrays that kernels.data stores for a group, made from `stored`, the arrays that
    model.onnx.data stores for this group. The arrays are C-contiguous. No file is written.

    Raises BundleError if the group's numbers can't be stored in the form that `forms` gives.
    """
    if not is_tiled(group):
        return dict(stored)
    if group.kind == "row":
        return {**stored, **_row_tiles(group, stored)}
    assert group.format is not None
    own, bits, tiles = forms.get(group.name, stored_form(group)), group.format.bits, -(-group.width // TILE)
    blocks = -(-group.length // group.format.block)
    parts = {name: f"{group.name}.{name}" for name in ("packed", "scale", "zero", "minimum")}
    table = _table(group, stored) if own.table else None
    if own.table and table is None:
        raise BundleError(
            f"weight {parts['packed']} must contain at most 16 different quantized integers, but it contains "
            "more: export the model again"
        )
    if not own.table and own.bits < bits and own.bits < _fewest_bits(group, stored):
        raise BundleError(
            f"weight {parts['packed']} must contain quantized integers of {own.bits} bits, but some "
            "integers need more bits: export the model again"
        )
    places = np.arange(256, dtype=np.uint8) - np.uint8(2 ** (bits - 1) - 2 ** (own.bits - 1))
    if table is not None:
        places[table[::-1]] = np.arange(TILE, dtype=np.uint8)[::-1]
    rows, steps = stored[parts["packed"]].reshape(group.width, -1), []
    for start in range(0, group.width, AT_ONCE * TILE):  # a table of gigabytes would be there six times
        some = weight_storage.unpack(rows[start : start + AT_ONCE * TILE], bits, blocks * group.format.block)
        some = some if own.bits == bits else places[some]
        steps.append(_planes(_filled(some, -(-len(some) // TILE)), own.bits))
    shape = specs(group, "float32", forms)[parts["packed"]].shape
    result = {**stored, parts["packed"]: np.concatenate(steps).reshape(shape)}
    if table is not None:
        result[f"{group.name}.table"] = table
    scale, minimum, factors = stored[parts["scale"]], _minima(group, stored), []
    if own.scales == "codes":
        if (coded := _coded(group, stored, own.bits)) is None:
            raise BundleError(
                f"weight {parts['scale']} must contain whole multiples of float16 numbers, but it contains "
                "other numbers: export the model again"
            )
        (scale, *others), factors = ([part[i] for part in coded] for i in (0, 1))
        minimum = others[0] if others else None
    elif own.scales == "float16":
        if (halves := _halves(group, stored, own.bits)) is None:
            raise BundleError(
                f"weight {parts['scale']} must contain float16 numbers, but it contains other numbers: "
                "export the model again"
            )
        scale, minimum = halves
    result[parts["scale"]] = _by_tile(scale, tiles)
    if minimum is not None:
        result[parts["minimum"]] = _by_tile(minimum, tiles)
    if (zero := stored.get(parts["zero"])) is not None:
        result[parts["zero"]] = _by_tile(weight_storage.unpack(zero, bits, blocks), tiles)
    if factors:
        by_tile = np.stack([_by_tile(part, tiles) for part in factors], axis=2)
        result[f"{group.name}.factor"] = by_tile if minimum is not None else by_tile[:, :, 0]
    return {name: np.ascontiguousarray(array) for name, array in result.items()}


def _planes(codes: Array, bits: int) -> Array:
    """Convert codes [T·16, D] to the bytes of the steps of each tile, as the module's docstring defines
    them.
    """
    steps = codes.reshape(-1, TILE, codes.shape[1] // TILE, 4, 4).transpose(0, 2, 3, 1, 4)
    steps = np.ascontiguousarray(steps).reshape(*steps.shape[:3], 4 * TILE)  # [T, steps, 4, 64]
    if bits == 8:
        return steps
    low = 2 if bits == 2 else 4
    planes, first = [], steps & (2**low - 1)
    if low == 4:
        planes.append((first[:, :, ::2] | first[:, :, 1::2] << 4).reshape(*steps.shape[:2], -1))
    else:
        planes.append(_quarters(first))
    if bits - low == 2:
        planes.append(_quarters(steps >> low))
    elif bits - low == 1:
        ones = (steps >> low).reshape(*steps.shape[:3], 2, -1)
        eighths = ones << np.array([[0, 4], [1, 5], [2, 6], [3, 7]], np.uint8)[..., None]
        planes.append(np.bitwise_or.reduce(eighths, axis=(2, 3)))
    return np.concatenate(planes, axis=2)


def _quarters(pairs: Array) -> Array:
    """Pack four numbers of 2 bits of [T, steps, 4, 64] into one byte each."""
    return np.bitwise_or.reduce(pairs << np.array([0, 2, 4, 6], np.uint8)[:, None], axis=2)


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
    """Append rows of zeros until the rows fill whole tiles."""
    return np.pad(rows, ((0, tiles * TILE - len(rows)), (0, 0)))


def _by_tile(rows: Array, tiles: int) -> Array:
    """Rearrange [F, C] to [T, C, 16]."""
    return np.ascontiguousarray(_filled(rows, tiles).reshape(tiles, TILE, -1).transpose(0, 2, 1))

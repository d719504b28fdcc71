"""Define how a bundle stores a model's parameters: the names, types and shapes of the stored tensors.

The stored tensors follow from the Config, the target and each parameter's format. `store` makes them, and
`restore` is its exact inverse. On the targets of ONNX Runtime, matrices that multiply the same input are
joined along their output axis, and so are their biases: wq, wk and wv into wqkv, gate and up into gate_up,
and in cross-attention wk and wv into wkv. A group X of matrices [D, F], with C blocks per column, is
stored as:

    kind     tensors
    float    X [D, F]
    nbits    X.packed uint8 [F, C, block·bits/8], X.scale [F, C], for MatMulNBits
    row      X.codes int8 [D, F], X.scale [F]; one block is the whole column
             if the input is smoothed, also X.input_factor [D]
    static   the tensors of row, and the input's scale and zero point: X.input_scale [] and X.input_zero
             uint8 []. With w8a16, X.input_zero is uint16, and X.output_scale [] and X.output_zero uint16 []
             are stored too
    blocked  X.codes [D, F], X.scale [C, F], X.zero [C, F], for DequantizeLinear

A table [N, D] is split into blocks along D. nbits stores X.packed as [N, C·block·bits/8], so that
GatherBlockQuantized and MatMulNBits read the same tensor. blocked stores [N, D] and [N, C], and static
stores [N, D] and [N]. row stores the transpose, [D, N] and [N], because MatMulIntegerToFloat needs this
orientation.

**Conventions**: The low bits of a byte contain the first code. A short last block is filled with its zero
point. Symmetric codes need no zero points: with nbits the zero point is 2^(bits−1), and the other kinds
store signed numbers. For asymmetric codes, nbits packs X.zero as uint8 [F, ceil(C·bits/8)], and blocked
stores X.zero beside unsigned codes. A minimum is stored in float32 as X.minimum [C, F] or [N, C]. Four-bit
tensors of kind blocked are ONNX's INT4 and UINT4: two codes in a byte, row-major.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ...refimpl.ops import quant
from ...refimpl.ops.quant import Blocks
from .targets import Target
from .weight_formats import WeightFormat, is_table

Array = np.ndarray
Leaf = Array | Blocks
StorageKind = Literal["float", "nbits", "row", "static", "blocked"]
FOUR_BITS = ("int4", "uint4")


class Spec(NamedTuple):
    """The type and shape of a stored tensor. A byte of int4 or uint4 contains two elements."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """The size of the tensor in the file, in bytes."""
        bits = 4 if self.dtype in FOUR_BITS else 8 * np.dtype(self.dtype).itemsize
        return -(-math.prod(self.shape) * bits // 8)


@dataclass(frozen=True)
class Group:
    """Parameters that are stored together as one matrix, joined along their last axis. A table is always
    alone in its group.
    """

    name: str
    leaves: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    kind: StorageKind
    format: WeightFormat | None

    @property
    def axis(self) -> int:
        """The axis that is split into blocks: 1 for a table, because its rows are split, and 0 for a
        matrix."""
        return 1 if is_table(self.name) else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the matrix that results from joining the group's parameters."""
        return (*self.shapes[0][:-1], sum(shape[-1] for shape in self.shapes))

    @property
    def length(self) -> int:
        """The size of the axis that is split into blocks."""
        return self.shape[self.axis]

    @property
    def width(self) -> int:
        """The size of the axis that isn't split into blocks."""
        return self.shape[1 - self.axis]


class Join(NamedTuple):
    """The names of matrices that multiply the same input, of their biases, and of the two joined tensors."""

    weight: str
    weights: tuple[str, ...]
    bias: str
    biases: tuple[str, ...]


JOINS = (
    Join("wqkv", ("wq", "wk", "wv"), "bqkv", ("bq", "bk", "bv")),
    Join("gate_up", ("gate", "up"), "bgate_up", ("bgate", "bup")),
)
# A cross-attention's queries come from elsewhere.
CROSS_JOINS = (Join("wkv", ("wk", "wv"), "bkv", ("bk", "bv")),)


def stored(
    shapes: Mapping[str, tuple[int, ...]], formats: Mapping[str, WeightFormat], target: Target
) -> dict[str, Group]:
    """Return a dict from each group's name to its Group, in the order of `shapes`.

    `shapes` gives the shape of each parameter. A parameter that isn't in `formats` is stored as floats.
    """
    joined = _joined(list(shapes), formats) if target.storage.joins else {}
    group_of = {leaf: name for name, leaves in joined.items() for leaf in leaves}
    groups: dict[str, Group] = {}
    for leaf in shapes:
        name = group_of.get(leaf, leaf)
        if name not in groups:
            leaves = joined.get(name, (leaf,))
            kind = _kind(formats.get(leaf), target)
            groups[name] = Group(name, leaves, tuple(shapes[n] for n in leaves), kind, formats.get(leaf))
    return groups


def _joined(names: list[str], formats: Mapping[str, WeightFormat]) -> dict[str, tuple[str, ...]]:
    """Return a dict from the name of each joined group to its parameters. Matrices are joined if they have
    the same format, and then their biases are joined too.
    """
    present = set(names)
    joined: dict[str, tuple[str, ...]] = {}
    for parent in dict.fromkeys(name.rpartition(".")[0] for name in names):
        for join in CROSS_JOINS if parent.endswith(".cross") else JOINS:
            weights = tuple(f"{parent}.{name}" for name in join.weights)
            biases = tuple(f"{parent}.{name}" for name in join.biases)
            if not present.issuperset(weights) or len({formats.get(name) for name in weights}) > 1:
                continue
            joined[f"{parent}.{join.weight}"] = weights
            if present.issuperset(biases):
                joined[f"{parent}.{join.bias}"] = biases
    return joined


def _kind(weight_format: WeightFormat | None, target: Target) -> StorageKind:
    if weight_format is None:
        return "float"
    if weight_format.by_column:
        return "static" if weight_format.activations == "static" else "row"
    return target.storage.blocks


def _transposed(group: Group) -> bool:
    """Return whether a group stores its codes as the transpose of the parameter."""
    return group.kind == "row" and group.axis == 1


def specs(group: Group, dtype: str) -> dict[str, Spec]:
    """Return a dict from the name of each stored tensor of a group to its type and shape. `dtype` is the type
    of the group's floats.
    """
    if group.format is None:
        return {group.name: Spec(dtype, group.shape)}
    fields = _fields(group, group.format, dtype)
    return {f"{group.name}.{field}": spec for field, spec in fields.items()}


def _fields(group: Group, weight_format: WeightFormat, dtype: str) -> dict[str, Spec]:
    if group.kind in ("row", "static"):
        shape = group.shape[::-1] if _transposed(group) else group.shape
        fields = {"codes": Spec("int8", shape), "scale": Spec(dtype, (group.width,))}
        if weight_format.activations == "smoothed":
            fields["input_factor"] = Spec(dtype, (group.length,))
        if group.kind == "static":
            zero = Spec(f"uint{weight_format.activation_bits}", ())
            fields |= {"input_scale": Spec(dtype, ()), "input_zero": zero}
            if weight_format.rounds_output:
                fields |= {"output_scale": Spec(dtype, ()), "output_zero": zero}
        return fields
    bits = weight_format.bits
    count = -(-group.length // weight_format.block)
    per_block = (group.width, count) if group.axis == 1 else (count, group.width)
    if group.kind == "blocked":
        kind = f"int{bits}" if weight_format.symmetric else f"uint{bits}"
        fields = {"codes": Spec(kind, group.shape), "scale": Spec(dtype, per_block)}
        zero = Spec(kind, per_block)
    else:
        blob = weight_format.block * bits // 8
        packed = (group.width, count * blob) if group.axis == 1 else (group.width, count, blob)
        fields = {"packed": Spec("uint8", packed), "scale": Spec(dtype, (group.width, count))}
        zero = Spec("uint8", (group.width, -(-count * bits // 8)))
    if not weight_format.symmetric:
        fields["zero"] = zero
    if weight_format.minimum:
        fields["minimum"] = Spec("float32", per_block)
    return fields


def store(group: Group, leaves: Mapping[str, Leaf]) -> dict[str, Array]:
    """Return the stored tensors of a group, by name, as C-contiguous arrays. `leaves` contains the group's
    parameters.

    An int4 or uint4 tensor is returned as a flat array of bytes.
    """
    parts = [leaves[name] for name in group.leaves]
    if group.format is None:
        return {group.name: _join([part for part in parts if isinstance(part, Array)])}
    # Rows are vectors here, whichever way round the leaf is: [F, D] and [F, C].
    rows = [part if group.axis == 1 else quant.transpose(part) for part in parts if isinstance(part, Blocks)]
    first = rows[0]
    codes = np.concatenate([part.codes for part in rows])
    scale = np.concatenate([part.scale for part in rows])
    zero = (
        None if first.zero is None else np.concatenate([part.zero for part in rows if part.zero is not None])
    )
    if group.kind == "nbits":
        packed = _pack_blocks(codes, zero, first)
        fields = {"packed": packed.reshape(_fields(group, group.format, "float32")["packed"].shape)}
        fields["scale"] = np.ascontiguousarray(scale)
        if zero is not None:
            fields["zero"] = _pack(zero, first.bits)
    else:
        turned = np.ascontiguousarray(codes.T) if _transposed(group) else _turned(codes, group)
        fields = {"codes": turned, "scale": _turned(scale, group)}
        if group.kind != "blocked":
            fields["scale"] = fields["scale"].reshape(-1)
        if zero is None:
            fields["codes"] = _signed(fields["codes"], first.bits)
        else:
            fields["zero"] = _turned(zero, group)
        if first.bits == 4:
            fields |= {name: _pack_flat(fields[name]) for name in fields.keys() & {"codes", "zero"}}
    if first.input_scale is not None and first.input_zero is not None:
        fields |= {"input_scale": first.input_scale, "input_zero": first.input_zero}
    if first.output_scale is not None and first.output_zero is not None:
        fields |= {"output_scale": first.output_scale, "output_zero": first.output_zero}
    if first.input_factor is not None:
        fields["input_factor"] = first.input_factor
    if first.minimum is not None:
        minimum = np.concatenate([part.minimum for part in rows if part.minimum is not None])
        fields["minimum"] = _turned(minimum, group)
    return {f"{group.name}.{field}": tensor for field, tensor in fields.items()}


def restore(group: Group, tensors: Mapping[str, Array]) -> dict[str, Leaf]:
    """Return the parameters of a group from its stored tensors: the exact inverse of `store`."""
    ends = np.cumsum([shape[-1] for shape in group.shapes])[:-1]
    weight_format = group.format
    if weight_format is None:
        parts = np.split(tensors[group.name], ends, axis=-1)
        return dict(zip(group.leaves, parts, strict=True))
    fields = {name.removeprefix(f"{group.name}."): tensor for name, tensor in tensors.items()}
    bits = weight_format.bits
    count = -(-group.length // weight_format.block)
    per_block = (count, group.width) if group.axis == 0 else (group.width, count)
    zero = None
    if group.kind == "nbits":
        packed = fields["packed"].reshape(group.width, -1)
        codes = _unturned(unpack(packed, bits, group.length), group)
        scale = _unturned(fields["scale"], group)
        if not weight_format.symmetric:
            zero = _unturned(unpack(fields["zero"], bits, count), group)
    else:
        codes = fields["codes"].T if _transposed(group) else _unpack_flat(fields["codes"], bits, group.shape)
        scale = fields["scale"].reshape(per_block)
        if weight_format.symmetric:
            codes = _unsigned(codes, bits)
        else:
            zero = _unpack_flat(fields["zero"], bits, per_block)

    def split(array: Array | None) -> list[Any]:  # an array for each leaf, or None for each
        return [None] * len(group.leaves) if array is None else np.split(array, ends, axis=-1)

    parts = zip(
        group.leaves, split(codes), split(scale), split(zero), split(fields.get("minimum")), strict=True
    )
    return {
        leaf: Blocks(
            leaf_codes,
            leaf_scale,
            leaf_zero,
            leaf_minimum,
            bits,
            weight_format.block,
            group.axis,
            weight_format.activations,
            fields.get("input_scale"),
            fields.get("input_zero"),
            fields.get("input_factor"),
            fields.get("output_scale"),
            fields.get("output_zero"),
        )
        for leaf, leaf_codes, leaf_scale, leaf_zero, leaf_minimum in parts
    }


def _join(parts: list[Array]) -> Array:
    return np.ascontiguousarray(parts[0]) if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _turned(rows: Array, group: Group) -> Array:
    """Return an array with the orientation in which the group is stored. In `rows`, the vectors that are
    split into blocks are rows.
    """
    return np.ascontiguousarray(_unturned(rows, group))


def _unturned(rows: Array, group: Group) -> Array:
    """The inverse of `_turned`, as a view."""
    return rows if group.axis == 1 else rows.T


def _pack_blocks(codes: Array, zero: Array | None, blocks: Blocks) -> Array:
    """Fill up the last block of codes [F, D], and pack the codes into bytes."""
    short = -codes.shape[1] % blocks.block
    if short:
        middle = np.full((len(codes), 1), 2 ** (blocks.bits - 1), np.uint8)
        filler = middle if zero is None else zero[:, -1:]
        codes = np.concatenate([codes, np.repeat(filler, short, axis=1)], axis=1)
    return _pack(codes, blocks.bits)


def _pack(codes: Array, bits: int) -> Array:
    """Pack codes [n, m] into bytes [n, ceil(m · bits / 8)], low bits first."""
    if bits == 8:
        return np.ascontiguousarray(codes)
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    packed = codes[:, 1::2] << 4
    packed |= codes[:, ::2]
    return packed


def unpack(packed: Array, bits: int, length: int) -> Array:
    """Return the codes [n, length] that packed rows of bytes contain. The low bits of a byte are the first
    code.
    """
    if bits == 8:
        return packed[:, :length]
    codes = np.empty((packed.shape[0], 2 * packed.shape[1]), np.uint8)
    codes[:, ::2] = packed & 15
    codes[:, 1::2] = packed >> 4
    return codes[:, :length]


def _pack_flat(codes: Array) -> Array:
    """Pack 4-bit codes of any shape into bytes. A byte may contain the end of one row and the start of the
    next.
    """
    return _pack(codes.reshape(1, -1), 4)[0]


def _unpack_flat(stored_codes: Array, bits: int, shape: tuple[int, ...]) -> Array:
    if bits == 8:
        return stored_codes
    return unpack(stored_codes.reshape(1, -1), 4, math.prod(shape)).reshape(shape)


def _signed(codes: Array, bits: int) -> Array:
    """Convert unsigned codes to two's complement, code − 2^(bits−1), in the same number of bits: the top bit
    flips.
    """
    flipped = codes ^ np.uint8(2 ** (bits - 1))
    return flipped.view(np.int8) if bits == 8 else flipped


def _unsigned(codes: Array, bits: int) -> Array:
    return codes.view(np.uint8) ^ np.uint8(2 ** (bits - 1))

"""How the leaves of a parameter tree stand in a bundle: which tensors, of what type and shape.

The stored tensors are a function of the Config, the target and each leaf's scheme; `store` makes
them and `restore` is its exact inverse. On the targets of ONNX Runtime, matrices that multiply the
same input are joined along their output axis (wq, wk, wv into wqkv; in cross-attention wk, wv into wkv;
gate, up into gate_up), with their biases. For a group X of matrices [D, F], C blocks to a column:

    kind     tensors
    float    X [D, F]
    nbits    X.packed uint8 [F, C, block·bits/8], X.scale [F, C]         MatMulNBits; X.zero as below
    row      X.codes int8 [D, F], X.scale [F]                            one block is the whole column
             smoothed: also X.input_factor [D]
    static   the same, X.input_scale and X.input_zero uint8, both []     the input's codes are given
    blocked  X.codes [D, F], X.scale [C, F], X.zero [C, F]               DequantizeLinear

A table [N, D] is blocked along D: nbits stores X.packed as [N, C·block·bits/8] (one tensor for
GatherBlockQuantized and MatMulNBits), blocked keeps [N, D] and [N, C], static [N, D] and [N].

Conventions: low bits first; a short last block is filled with its zero point. Symmetric codes need
no zero points: nbits means 2^(bits−1), the others store signed numbers. Otherwise nbits packs
X.zero as uint8 [F, ceil(C·bits/8)] and blocked stores it beside unsigned codes. A minimum stays
float32, [C, F] or [N, C], as X.minimum. Four-bit tensors of kind blocked are ONNX's INT4 and UINT4:
two to a byte, row-major.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from ...refimpl.config import Config
from ...refimpl.ops import quant
from ...refimpl.ops.quant import Blocks
from ...refimpl.params import shapes as params

Array = np.ndarray
Leaf = Array | Blocks
Kind = Literal["float", "nbits", "row", "static", "blocked"]


@dataclass(frozen=True)
class Scheme:
    """How a matrix is quantized; `native` keeps the codes of the checkpoint's own blocks."""

    bits: int
    block: int
    activations: Literal["none", "block", "row", "smoothed", "static"]
    symmetric: bool = True
    minimum: bool = False
    native: bool = False


class Spec(NamedTuple):
    """Type and shape of a stored tensor; int4 and uint4 hold two elements in a byte."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Bytes in the file."""
        bits = 4 if self.dtype in ("int4", "uint4") else 8 * np.dtype(self.dtype).itemsize
        return -(-math.prod(self.shape) * bits // 8)


@dataclass(frozen=True)
class Group:
    """Leaves that are stored together, joined along their last axis (a table is alone)."""

    name: str
    leaves: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    kind: Kind
    scheme: Scheme | None

    @property
    def axis(self) -> int:
        """The axis that is blocked: a table's rows are vectors, a matrix's columns are."""
        return 1 if self.name.endswith(".table") else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the leaves joined."""
        return (*self.shapes[0][:-1], sum(shape[-1] for shape in self.shapes))

    @property
    def length(self) -> int:
        """The size of the blocked axis."""
        return self.shape[self.axis]


JOINS = (
    ("wqkv", ("wq", "wk", "wv"), "bqkv", ("bq", "bk", "bv")),
    ("gate_up", ("gate", "up"), "bgate_up", ("bgate", "bup")),
)
# A cross-attention's queries come from elsewhere.
CROSS = (("wkv", ("wk", "wv"), "bkv", ("bk", "bv")),)


def stored(config: Config, schemes: Mapping[str, Scheme | None], target: str) -> dict[str, Group]:
    """Group name -> Group, in the order of `params.shapes`; a leaf without a scheme stays float."""
    shapes = params.shapes(config)
    joined: dict[str, tuple[str, ...]] = {}
    if target != "standard":
        parents = dict.fromkeys(name.rpartition(".")[0] for name in shapes)
        for parent in parents:
            for weight, weights, bias, biases in CROSS if parent.endswith(".cross") else JOINS:
                parts = tuple(f"{parent}.{w}" for w in weights)
                if all(p in shapes for p in parts) and len({schemes.get(p) for p in parts}) == 1:
                    joined[f"{parent}.{weight}"] = parts
                    parts = tuple(f"{parent}.{b}" for b in biases)
                    if all(p in shapes for p in parts):
                        joined[f"{parent}.{bias}"] = parts
    owner = {leaf: name for name, leaves in joined.items() for leaf in leaves}
    groups: dict[str, Group] = {}
    for leaf in shapes:
        name = owner.get(leaf, leaf)
        if name not in groups:
            leaves, scheme = joined.get(name, (leaf,)), schemes.get(leaf)
            kind = _kind(scheme, target)
            groups[name] = Group(name, leaves, tuple(shapes[part] for part in leaves), kind, scheme)
    return groups


def _kind(scheme: Scheme | None, target: str) -> Kind:
    if scheme is None:
        return "float"
    if scheme.activations in quant.WHOLE:
        return "static" if scheme.activations == "static" else "row"
    return "blocked" if target == "standard" else "nbits"


def specs(group: Group, dtype: str) -> dict[str, Spec]:
    """Tensor name -> Spec of all that `store` gives for a group whose floats are of `dtype`."""
    name, scheme = group.name, group.scheme
    if scheme is None:
        return {name: Spec(dtype, group.shape)}
    if group.kind in ("row", "static"):
        width = group.shape[1 - group.axis]
        found = {f"{name}.codes": Spec("int8", group.shape), f"{name}.scale": Spec(dtype, (width,))}
        if scheme.activations == "smoothed":
            found[f"{name}.input_factor"] = Spec(dtype, (group.length,))
        if group.kind == "static":
            found |= {f"{name}.input_scale": Spec(dtype, ()), f"{name}.input_zero": Spec("uint8", ())}
        return found
    bits, count = scheme.bits, -(-group.length // scheme.block)
    width = group.shape[1 - group.axis]
    per_block = (width, count) if group.axis == 1 else (count, width)
    if group.kind == "blocked":
        kind = f"{'' if scheme.symmetric else 'u'}int{bits}"
        found = {f"{name}.codes": Spec(kind, group.shape), f"{name}.scale": Spec(dtype, per_block)}
        zero = Spec(kind, per_block)
    else:
        blob = scheme.block * bits // 8
        packed = (width, count * blob) if group.axis == 1 else (width, count, blob)
        found = {f"{name}.packed": Spec("uint8", packed), f"{name}.scale": Spec(dtype, (width, count))}
        zero = Spec("uint8", (width, -(-count * bits // 8)))
    if not scheme.symmetric:
        found[f"{name}.zero"] = zero
    if scheme.minimum:
        found[f"{name}.minimum"] = Spec("float32", per_block)
    return found


def store(group: Group, leaves: Mapping[str, Leaf]) -> dict[str, Array]:
    """The tensors of a group, C-contiguous; those of int4 and uint4 as flat bytes."""
    parts = [leaves[name] for name in group.leaves]
    if group.kind == "float":
        return {group.name: _join([p for p in parts if isinstance(p, Array)])}
    # Rows are vectors here, whichever way round the leaf is: [F, D] and [F, C].
    sides = [p if group.axis == 1 else quant.transpose(p) for p in parts if isinstance(p, Blocks)]
    stack = lambda field: np.concatenate([getattr(s, field) for s in sides])  # noqa: E731
    codes, scale, scheme = stack("codes"), stack("scale"), sides[0]
    zero = None if scheme.zero is None else stack("zero")
    if group.kind == "nbits":
        found = {"packed": _pack_blocks(codes, zero, scheme), "scale": np.ascontiguousarray(scale)}
        found["packed"] = found["packed"].reshape(specs(group, "float32")[f"{group.name}.packed"].shape)
        if zero is not None:
            found["zero"] = _pack(zero, scheme.bits)
    else:
        turn = lambda a: np.ascontiguousarray(a if group.axis == 1 else a.T)  # noqa: E731
        found = {"codes": turn(codes), "scale": turn(scale)}
        if group.kind in ("row", "static"):
            found["scale"] = found["scale"].reshape(-1)
        if zero is None:
            found["codes"] = _signed(found["codes"], scheme.bits)
        else:
            found["zero"] = turn(zero)
        if scheme.bits == 4:
            found |= {k: _pack(found[k].reshape(1, -1), 4)[0] for k in found.keys() & {"codes", "zero"}}
    if scheme.input_scale is not None and scheme.input_zero is not None:
        found |= {"input_scale": scheme.input_scale, "input_zero": scheme.input_zero}
    if scheme.input_factor is not None:
        found["input_factor"] = scheme.input_factor
    if scheme.minimum is not None:
        minimum = stack("minimum")
        found["minimum"] = np.ascontiguousarray(minimum if group.axis == 1 else minimum.T)
    return {f"{group.name}.{field}": tensor for field, tensor in found.items()}


def restore(group: Group, tensors: Mapping[str, Array]) -> dict[str, Leaf]:
    """The leaves of a group, as `store` was given them."""
    ends = np.cumsum([shape[-1] for shape in group.shapes])[:-1]
    scheme = group.scheme
    if scheme is None:
        return dict(zip(group.leaves, np.split(tensors[group.name], ends, axis=-1), strict=True))
    get = lambda field: tensors[f"{group.name}.{field}"]  # noqa: E731
    count = -(-group.length // scheme.block)
    per_block = (count, group.shape[1]) if group.axis == 0 else (group.shape[0], count)
    bits, zero = scheme.bits, None
    if group.kind == "nbits":
        rows = get("packed").reshape(group.shape[1 - group.axis], -1)
        turn = lambda a: a.T if group.axis == 0 else a  # noqa: E731
        codes, scale = turn(_unpack(rows, bits, group.length)), turn(get("scale"))
        if not scheme.symmetric:
            zero = turn(_unpack(get("zero"), bits, count))
    else:
        whole = lambda a, shape: (  # noqa: E731
            _unpack(a.reshape(1, -1), 4, math.prod(shape)).reshape(shape) if bits == 4 else a
        )
        codes, scale = whole(get("codes"), group.shape), get("scale").reshape(per_block)
        if scheme.symmetric:
            codes = _unsigned(codes, bits)
        else:
            zero = whole(get("zero"), per_block)
    minimum = get("minimum") if scheme.minimum else None
    given = (get("input_scale"), get("input_zero")) if group.kind == "static" else (None, None)
    factor = get("input_factor") if scheme.activations == "smoothed" else None
    cut = lambda a: np.split(a, ends, axis=-1)  # noqa: E731
    maybe = lambda a: [None] * len(group.leaves) if a is None else cut(a)  # noqa: E731
    return {
        leaf: Blocks(c, s, z, m, bits, scheme.block, group.axis, scheme.activations, *given, factor)
        for leaf, c, s, z, m in zip(
            group.leaves, cut(codes), cut(scale), maybe(zero), maybe(minimum), strict=True
        )
    }


def _join(parts: list[Array]) -> Array:
    return np.ascontiguousarray(parts[0]) if len(parts) == 1 else np.concatenate(parts, axis=-1)


def _pack_blocks(codes: Array, zero: Array | None, scheme: Blocks) -> Array:
    """Codes [F, D] with the last block filled up, packed."""
    short = -codes.shape[1] % scheme.block
    if short:
        middle = np.full((len(codes), 1), 2 ** (scheme.bits - 1), np.uint8)
        filler = middle if zero is None else zero[:, -1:]
        codes = np.concatenate([codes, np.repeat(filler, short, axis=1)], axis=1)
    return _pack(codes, scheme.bits)


def _pack(codes: Array, bits: int) -> Array:
    """[n, m] -> [n, ceil(m · bits / 8)], low bits first."""
    if bits == 8:
        return np.ascontiguousarray(codes)
    if codes.shape[1] % 2:
        codes = np.pad(codes, ((0, 0), (0, 1)))
    packed = codes[:, 1::2] << 4
    packed |= codes[:, ::2]
    return packed


def _unpack(packed: Array, bits: int, length: int) -> Array:
    if bits == 8:
        return packed[:, :length]
    codes = np.empty((packed.shape[0], 2 * packed.shape[1]), np.uint8)
    codes[:, ::2], codes[:, 1::2] = packed & 15, packed >> 4
    return codes[:, :length]


def _signed(codes: Array, bits: int) -> Array:
    """Code − 2^(bits−1) in two's complement, kept in `bits` bits: the top bit flips."""
    flipped = codes ^ np.uint8(2 ** (bits - 1))
    return flipped.view(np.int8) if bits == 8 else flipped


def _unsigned(codes: Array, bits: int) -> Array:
    return codes.view(np.uint8) ^ np.uint8(2 ** (bits - 1))

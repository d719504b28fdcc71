"""compressed-tensors: integers and floats of a few bits in one of five packings, chosen module by module.

    pack-quantized    X.weight_packed I32 [F, ⌈D · b / 32⌉], X.weight_shape I64 [2], X.weight_scale [F, C],
                      X.weight_zero_point I32 [⌈F · b / 32⌉, C] packed along F, X.weight_g_idx I32 [D]
    int-quantized     X.weight I8 [F, D], X.weight_scale and X.weight_zero_point I8, [1] or [F, C]
    float-quantized   see `float8`
    mxfp4-pack-quantized, nvfp4-pack-quantized   see `float4`

    w[f, d] = weight_scale[f, g] · (weight[f, d] − weight_zero_point[f, g])

g is the group of input d, and C is the number of groups. For the strategies "tensor" and "channel", C is 1.
For "group", g is d // group_size, or weight_g_idx[d] if this tensor exists and isn't −1. naive-quantized is
int-quantized or float-quantized, by type. Source: the library's compressors.

**Conventions.** Packed codes and zero points have 2^(b−1) added, see `packed`. A missing zero point means 0.
Only 4 and 8 bits are read in packed form, because older versions packed other numbers of bits in another
way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ....errors import CheckpointError
from ..adapters.name_patterns import NamePattern, Work
from ..tensor_source import RawSource
from . import packed
from .affine import Affine, AffineWeight, checked_groups, groups
from .float4 import mxfp4, nvfp4
from .float8 import Float8
from .weight import FLOATS, Shape, StoredWeight, check, modules

LINEAR = "Linear"


@dataclass(frozen=True)
class Scheme:
    """One config group of compressed-tensors: how its modules are stored, and which modules it is for.

    `names` and `patterns` say which modules the group is for. The name "Linear" means every linear module. A
    `group_size` of None means that all inputs of an output share a scale. For 8-bit floats, `block` is the
    size of the block that shares a scale.
    """

    packing: str
    bits: int
    symmetric: bool
    group_size: int | None
    block: Shape | None
    names: frozenset[str]
    patterns: tuple[NamePattern, ...]

    def rank(self, module: str, work: Work) -> int | None:
        """Return how specifically the scheme names this module: 0 by its name, 1 by a pattern, 2 as any
        linear module. Returns None if the scheme isn't for the module.
        """
        if module in self.names:
            return 0
        if any(pattern.matches(module, work, suffix=False) for pattern in self.patterns):
            return 1
        return 2 if LINEAR in self.names else None


@dataclass(frozen=True)
class CompressedTensors:
    """compressed-tensors' format, with a scheme for each config group of the checkpoint."""

    schemes: tuple[Scheme, ...]

    def weights(self, source: RawSource) -> Iterator[tuple[str, StoredWeight]]:
        work = Work("quantization_config")
        for module in modules(source, "weight_scale"):
            ranks = {
                i: rank for i, s in enumerate(self.schemes) if (rank := s.rank(module, work)) is not None
            }
            if not ranks:
                raise CheckpointError(
                    f"module {module!r:.120} is quantized, but no config group lists this module"
                )
            yield f"{module}.weight", _weight(source, module, self.schemes[min(ranks, key=ranks.__getitem__)])


def _weight(source: RawSource, module: str, scheme: Scheme) -> StoredWeight:
    match scheme.packing:
        case "pack-quantized":
            return _packed(source, module, scheme)
        case "int-quantized":
            return _integers(source, module, scheme)
        case "float-quantized":
            return Float8(scheme.block).weight(source, f"{module}.weight")
        case "mxfp4-pack-quantized":
            return mxfp4(source, module)
        case _:
            return nvfp4(source, f"{module}.weight_packed", f"{module}.weight_global_scale", divides=True)


def _packed(source: RawSource, module: str, scheme: Scheme) -> AffineWeight:
    bits = scheme.bits
    names = {part: f"{module}.weight_{part}" for part in ("packed", "scale", "shape", "zero_point", "g_idx")}
    rows, words = check(source, names["packed"], ("I32",))
    check(source, names["shape"], ("I64",), (2,))
    outputs, inputs = (int(size) for size in source.raw(names["shape"]))
    if outputs != rows or not 0 < inputs <= 32 * words or -(-inputs * bits // 32) != words:
        raise CheckpointError(
            f"tensor {names['packed']!r:.120} must contain {bits}-bit integers in weight_shape, "
            f"{[outputs, inputs]}, but it has shape {[rows, words]}"
        )
    neighbours, count = groups(inputs, scheme.group_size)
    check(source, names["scale"], FLOATS, (outputs, count))
    tensors = [names["packed"], names["scale"], names["shape"]]
    if not scheme.symmetric:
        check(source, names["zero_point"], ("I32",), (-(-outputs * bits // 32), count))
        tensors.append(names["zero_point"])
    if names["g_idx"] in source.names:
        check(source, names["g_idx"], ("I32",), (inputs,))
        tensors.append(names["g_idx"])

    def read() -> Affine:
        group = neighbours
        if names["g_idx"] in tensors and (stated := source.raw(names["g_idx"])).max() >= 0:
            group = checked_groups(stated, count, names["g_idx"])
        scale = source.load(names["scale"])
        zero = np.full(scale.shape, 2 ** (bits - 1), np.int16)
        if not scheme.symmetric:
            zero = packed.unpack(source.raw(names["zero_point"]).T, bits, outputs).T.astype(np.int16)
        return Affine(packed.unpack(source.raw(names["packed"]), bits, inputs), scale, zero, group, bits)

    return AffineWeight(f"INT{bits}", (outputs, inputs), tensors, read)


def _integers(source: RawSource, module: str, scheme: Scheme) -> AffineWeight:
    weight, scale, zero_point = (f"{module}.weight{part}" for part in ("", "_scale", "_zero_point"))
    outputs, inputs = check(source, weight, ("I8",))
    group, count = groups(inputs, scheme.group_size)
    one_for_all = source.shape(scale) in ((), (1,), (1, 1))
    check(source, scale, FLOATS, source.shape(scale) if one_for_all else (outputs, count))
    tensors = [weight, scale]
    if not scheme.symmetric:
        check(source, zero_point, ("I8",), source.shape(scale))
        tensors.append(zero_point)

    def by_output(array: np.ndarray) -> np.ndarray:
        return np.broadcast_to(array.reshape(1, 1) if one_for_all else array, (outputs, count))

    def read() -> Affine:
        zero = np.zeros((outputs, count), np.int16)
        if not scheme.symmetric:
            zero = by_output(source.raw(zero_point)).astype(np.int16)
        codes = source.raw(weight).view(np.uint8) ^ np.uint8(128)
        return Affine(codes, by_output(source.load(scale)), zero + np.int16(128), group, 8)

    return AffineWeight("INT8", (outputs, inputs), tensors, read)

"""Weights in 4-bit floats (E2M1) with a scale for each block of neighbouring inputs: MXFP4 and NVFP4.

In the formulas, e is the value of a 4-bit code, and s is the scale of its block. MXFP4 has blocks of 32 (OCP
Microscaling Formats 1.0), and s is an exponent (E8M0):

    w = e · 2^(s − 127)
    gpt-oss      X_blocks U8 [E, F, D / 32, 16], X_scales U8 [E, F, D / 32]
    compressed-tensors   X.weight_packed U8 [F, D / 2], X.weight_scale U8 [F, D / 32]

NVFP4 has blocks of 16. s is an E4M3 float, and there is a further scale for the whole weight:

    modelopt     w = e · (s · scale_2)   X.weight U8 [F, D / 2], X.weight_scale F8_E4M3 [F, D / 16],
                                         X.weight_scale_2 F32 [] or [1]
    compressed-tensors   w = e · (s / global)   X.weight_packed, X.weight_scale,
                                         X.weight_global_scale F32 [1]

**Conventions.** In a byte, the number in the low bits comes first. The scale is rounded to float32, and then
the product. MXFP4's product is exact. The experts of gpt-oss are transposed: the weight X is [E, D, F].
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np

from ....errors import CheckpointError
from ....ops.quant import Blocks, transpose
from ..small_floats import E2M1, E8M0
from .packed import fields
from .weight import RawSource, Shape, check, modules

MX_BLOCK, NV_BLOCK = 32, 16
HALVES = np.array([0, 4], np.uint8)
# All values are halves of whole numbers from −12 to 12.
DOUBLED = (2 * E2M1 + 128).astype(np.uint8)
CHUNK = 2**14  # rows of bytes, 16 each, that are decoded at a time


@dataclass(frozen=True, eq=False)
class Float4Weight:
    """A stored weight of 4-bit floats. `codes(part)` returns packed bytes [F, D / 2], and `scales(part)`
    returns float32 [F, C].

    With `turned`, the weight is the transpose of this matrix. Such a weight is stacked for several experts,
    and `part` is an expert.
    """

    kind: str
    shape: Shape
    tensors: Collection[str]
    codes: Callable[[int | None], np.ndarray]
    scales: Callable[[int | None], np.ndarray]
    block: int
    turned: bool = False

    def load(self, part: int | None = None) -> np.ndarray:
        if self.turned and part is None:
            return np.stack([self.load(e) for e in range(self.shape[0])])
        packed, scale = self.codes(part), self.scales(part)
        out = np.empty((len(packed), 2 * packed.shape[1]), np.float32)
        step = max(1, CHUNK * 16 // packed.shape[1])
        with np.errstate(all="ignore"):  # whoever loads a weight checks that it is finite
            for start in range(0, len(packed), step):
                rows = slice(start, start + step)
                np.take(E2M1, fields(packed[rows], HALVES, 4), out=out[rows])
                out[rows] *= np.repeat(scale[rows], self.block, axis=1)
        return out.T if self.turned else out

    def native(self, part: int | None = None) -> Blocks | None:
        """Return the same values in blocks of 8-bit codes: each code is twice the 4-bit number, and each
        scale is halved.

        Returns None for several experts together.
        """
        if len(self.shape) - (part is not None) != 2:
            return None
        codes = DOUBLED[fields(self.codes(part), HALVES, 4)]
        scale = self.scales(part) / 2
        blocks = Blocks(codes, scale, None, None, 8, self.block, 1, "block")
        return transpose(blocks) if self.turned else blocks


@dataclass(frozen=True)
class Mxfp4Experts:
    """The MXFP4 format of gpt-oss' experts: `X_blocks` and `X_scales` together are the weight X."""

    def weights(self, source: RawSource) -> Iterator[tuple[str, Float4Weight]]:
        for blocks in source.names:
            if blocks.endswith("_blocks"):
                name = blocks.removesuffix("_blocks")
                yield name, self._weight(source, blocks, f"{name}_scales")

    def _weight(self, source: RawSource, blocks: str, scales: str) -> Float4Weight:
        shape = source.shape(blocks)
        if len(shape) != 4 or 0 in shape or shape[3] != MX_BLOCK // 2:
            raise CheckpointError(
                f"tensor {blocks!r:.120} must have shape [E, F, C, 16], but it has {list(shape)}"
            )
        experts, outputs, count, size = shape
        check(source, blocks, ("U8",), shape)
        check(source, scales, ("U8",), shape[:3])
        return Float4Weight(
            "MXFP4",
            (experts, count * MX_BLOCK, outputs),
            (blocks, scales),
            lambda part: source.raw(blocks, part).reshape(outputs, count * size),
            lambda part: E8M0[source.raw(scales, part)],
            MX_BLOCK,
            turned=True,
        )


def mxfp4(source: RawSource, module: str) -> Float4Weight:
    """Return the weight of a module that compressed-tensors stores in MXFP4."""
    packed, scale = f"{module}.weight_packed", f"{module}.weight_scale"
    shape = _shape(source, packed, MX_BLOCK)
    check(source, scale, ("U8",), (shape[0], shape[1] // MX_BLOCK))
    return Float4Weight(
        "MXFP4",
        shape,
        (packed, scale),
        lambda part: source.raw(packed, part),
        lambda part: E8M0[source.raw(scale, part)],
        MX_BLOCK,
    )


def nvfp4(source: RawSource, packed: str, global_scale: str, *, divides: bool) -> Float4Weight:
    """Return a weight in NVFP4. `packed` and `global_scale` name the tensors of its codes and of the scale of
    the whole weight.

    The blocks' scales are divided by the global scale if `divides` is true, and multiplied by it
    otherwise."""
    scale = f"{packed.rpartition('.')[0]}.weight_scale"
    shape = _shape(source, packed, NV_BLOCK)
    check(source, scale, ("F8_E4M3",), (shape[0], shape[1] // NV_BLOCK))
    one = source.shape(global_scale) if global_scale in source.names else ()
    check(source, global_scale, ("F32",), one if one in ((), (1,)) else ())

    def scales(part: int | None) -> np.ndarray:
        of_block, of_all = source.load(scale, part), source.load(global_scale).reshape(())
        with np.errstate(all="ignore"):
            return of_block / of_all if divides else of_block * of_all

    return Float4Weight(
        "NVFP4",
        shape,
        (packed, scale, global_scale),
        lambda part: source.raw(packed, part),
        scales,
        NV_BLOCK,
    )


@dataclass(frozen=True)
class ModeloptNvfp4:
    """modelopt's NVFP4 format. Each module with a tensor weight_scale_2 has a weight in this format."""

    def weights(self, source: RawSource) -> Iterator[tuple[str, Float4Weight]]:
        for module in modules(source, "weight_scale_2"):
            weight = f"{module}.weight"
            yield weight, nvfp4(source, weight, f"{module}.weight_scale_2", divides=False)


def _shape(source: RawSource, packed: str, block: int) -> Shape:
    """Return the shape of the weight that the tensor `packed` contains, two numbers in a byte."""
    rows, size = check(source, packed, ("U8",))
    if 2 * size % block:
        raise CheckpointError(
            f"tensor {packed!r:.120} must contain blocks of {block} numbers, but it has shape {[rows, size]}"
        )
    return rows, 2 * size

"""Integers with one scale and one zero point per group: the form of GPTQ, AWQ and integers of other
libraries.

    w[f, d] = scale[f, g] · (code[f, d] − zero[f, g]),  g = group[d]

The difference is a whole number of at most nine bits, and a float16 scale has at most 11 significant bits. So
the product is exact in float32. With float32 scales the product is rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np

from ....errors import CheckpointError
from ....ops.quant import Blocks
from .weight import Shape

CHUNK = 2**18  # elements computed at a time
LONGEST, SHORTEST = 256, 16  # blocks that ONNX Runtime's MatMulNBits has
USUAL = 128  # the length of the parts that a longer group is cut into


@dataclass(frozen=True, eq=False)
class Affine:
    """A quantized matrix with F outputs and D inputs: codes of `bits` bits [F, D], the scale and zero point
    of each group [F, C], and the group of each input [D]."""

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    group: np.ndarray
    bits: int

    def dequantized(self) -> np.ndarray:
        """Return the matrix [F, D] in float32."""
        out = np.empty(self.codes.shape, np.float32)
        rows = max(1, CHUNK // max(1, self.codes.shape[1]))
        with np.errstate(all="ignore"):  # whoever loads a weight checks that it is finite
            for start in range(0, len(out), rows):
                part = slice(start, start + rows)
                zero = np.take(self.zero[part], self.group, axis=1)
                np.subtract(self.codes[part], zero, out=out[part], dtype=np.float32)
                out[part] *= np.take(self.scale[part], self.group, axis=1)
        return out

    def blocks(self) -> Blocks | None:
        """Return the same values in blocks of neighbouring inputs, with unchanged scales.

        Returns None if groups aren't neighbouring inputs, or if blocks can't have the length or a zero point
        of the groups. Codes of up to 4 bits become codes of 4 bits, and all other codes become codes of 8
        bits. The values of the codes are unchanged, with one exception: if all groups have the same zero
        point and there is room, the codes are shifted so that the zero point is in the middle. A group that
        is too long is cut into blocks with the same scale.
        """
        bits = 4 if self.bits <= 4 else 8
        length, count = self.codes.shape[1], self.scale.shape[1]
        size = -(-length // count)
        block = _block(size, count)
        neighbours = np.array_equal(self.group, np.arange(length) // size)
        if block is None or not neighbours or self.zero.min() < 0 or self.zero.max() >= 2**bits:
            return None
        of_block = np.arange(-(-length // block)) * block // size
        zero, codes, middle = self.zero.astype(np.uint8), self.codes, 2 ** (bits - 1)
        moved = middle - int(zero.flat[0])
        if 0 < moved <= 2**bits - 2**self.bits and (zero == zero.flat[0]).all():
            codes, zero = codes + np.uint8(moved), zero + np.uint8(moved)
        return Blocks(
            codes=codes,
            scale=self.scale[:, of_block],
            zero=None if (zero == middle).all() else zero[:, of_block],
            minimum=None,
            bits=bits,
            block=block,
            axis=1,
            activations="block",
        )


def _block(size: int, count: int) -> int | None:
    """Return the length of the blocks into which `count` groups of `size` columns are cut, or None if no
    length fits.
    """
    if size <= LONGEST and size >= SHORTEST and size & (size - 1) == 0:
        return size
    # A group that is alone may end in a short block.
    return next((b for b in (USUAL, 64, 32, SHORTEST) if size % b == 0), 32 if count == 1 else None)


def groups(length: int, group_size: int | None) -> tuple[np.ndarray, int]:
    """Return the group of each of `length` columns, and the number of groups, if neighbouring columns form a
    group. A `group_size` of None means one group.
    """
    size = group_size or max(1, length)
    return np.arange(length) // size, -(-length // size)


def checked_groups(group: np.ndarray, count: int, name: str) -> np.ndarray:
    """Return `group`, the group of each column, as the file states it. Raises CheckpointError for a group
    that isn't from 0 to count − 1.
    """
    if group.size and not (group.min() >= 0 and group.max() < count):
        at = int(np.argmax((group < 0) | (group >= count)))
        raise CheckpointError(
            f"tensor {name}[{at}] must be a group from 0 to {count - 1}, but it is {int(group[at])}"
        )
    return group


@dataclass(frozen=True, eq=False)
class AffineWeight:
    """A stored weight with a scale and a zero point per group (`Affine`). Each access reads the weight from
    the file.
    """

    kind: str
    shape: Shape
    tensors: Collection[str]
    read: Callable[[], Affine]

    def load(self, part: int | None = None) -> np.ndarray:
        assert part is None, "only the weights of experts are stored together"
        return self.read().dequantized()

    def native(self, part: int | None = None) -> Blocks | None:
        assert part is None, "only the weights of experts are stored together"
        return self.read().blocks()

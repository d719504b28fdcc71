"""bitsandbytes: 4-bit codes of NF4 or FP4 in blocks (Dettmers et al. 2023, arXiv:2305.14314), and int8 codes
with a scale for each output.

A weight X of n numbers in 4 bits, row-major, in blocks of B (64):

    X                  U8 [n / 2, 1]     two codes in a byte, the first code in the high bits
    X.quant_map        F32 [16]          value of each code
    X.absmax           F32 [n / B]       scale of each block
    X.quant_state.bitsandbytes__nf4 (or …__fp4)  U8, JSON: shape, blocksize, quant_type, …

    w[i] = quant_map[code[i]] · absmax[i // B]

Double quantization stores absmax in 8 bits too, in blocks of B' (256):

    X.absmax U8 [n / B], X.nested_quant_map F32 [256], X.nested_absmax F32 [n / (B · B')]
    absmax[j] = nested_quant_map[X.absmax[j]] · nested_absmax[j // B'] + nested_offset

A weight X.weight in int8 (Dettmers et al. 2022, arXiv:2208.07339):

    X.weight I8 [F, D], X.SCB F32 [F], X.weight_format U8 [] (0: by rows)
    w[f, d] = X.weight[f, d] · SCB[f] · (1 / 127)

**Conventions.** Blocks continue from one row to the next. Each product and sum is rounded to float32, from
left to right. The quant_map must be the standard table of NF4 or FP4, since the library's kernels assume
it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....errors import CheckpointError
from ....ops.quant import Blocks
from ..strict_json import parse
from ..tensor_source import RawSource
from .affine import Affine, groups
from .packed import fields
from .weight import Shape, check

# The quantiles of a normal distribution (the paper's appendix E), and E2M1 with other exponents.
NF4 = np.array(
    [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
        0.7229568362236023, 1.0,
    ],
    np.float32,
)  # fmt: skip
_FP4 = np.array([0, 0.0625, 8, 12, 4, 6, 2, 3], np.float32) / np.float32(12)
MAPS = {"nf4": NF4, "fp4": np.concatenate([_FP4, -_FP4])}
STATE = ".quant_state.bitsandbytes__"
HIGH_FIRST = np.array([4, 0], np.uint8)
LARGEST_STATE = 64 * 1024
CHUNK = 2**18  # elements decoded at a time
INVERSE = np.float32(1 / 127)


@dataclass(frozen=True)
class Bitsandbytes:
    """bitsandbytes' format. The tensors beside a weight show whether the weight has 4 bits or is int8."""

    def weights(self, source: RawSource) -> Iterator[tuple[str, FourBits | Int8]]:
        for name in source.names:
            weight, state, kind = name.partition(STATE)
            if state:
                yield weight, _four_bits(source, weight, name, kind)
            elif name.endswith(".SCB"):
                weight = f"{name.removesuffix('.SCB')}.weight"
                yield weight, _int8(source, weight, name)


@dataclass(frozen=True, eq=False)
class FourBits:
    """A weight that bitsandbytes stores in NF4 or FP4."""

    source: RawSource
    name: str
    kind: str
    shape: Shape
    tensors: Collection[str]
    block: int
    nested: tuple[int, np.float32] | None

    def load(self, part: int | None = None) -> np.ndarray:
        assert part is None, "only the weights of experts are stored together"
        table = self.source.load(f"{self.name}.quant_map")
        if not np.array_equal(table, MAPS[self.kind.lower()]):
            raise CheckpointError(
                f"tensor '{self.name}.quant_map' must be bitsandbytes' table of {self.kind}, but its "
                "numbers differ"
            )
        count = math.prod(self.shape)
        codes, absmax = self.source.raw(self.name).reshape(1, -1), self._absmax()
        out = np.empty(count + count % 2, np.float32)
        for start in range(0, len(out), CHUNK):
            values = out[start : start + CHUNK]
            packed = codes[:, start // 2 : (start + CHUNK) // 2]
            np.take(table, fields(packed, HIGH_FIRST, 4)[0], out=values)
            with np.errstate(all="ignore"):  # whoever loads a weight checks that it is finite
                values *= absmax[np.arange(start, start + len(values)) // self.block]
        return out[:count].reshape(self.shape)

    def _absmax(self) -> np.ndarray:
        name = f"{self.name}.absmax"
        if self.nested is None:
            return self.source.load(name)
        block, offset = self.nested
        codes = self.source.raw(name)
        scale = self.source.load(f"{self.name}.nested_absmax")[np.arange(len(codes)) // block]
        with np.errstate(all="ignore"):
            return self.source.load(f"{self.name}.nested_quant_map")[codes] * scale + offset

    def native(self, part: int | None = None) -> Blocks | None:
        return None


def _four_bits(source: RawSource, name: str, state: str, kind: str) -> FourBits:
    stated = _state(source, state)
    if kind not in MAPS or stated.get("quant_type") != kind:
        raise CheckpointError(
            f"tensor {state!r:.120} must be of quant_type {' or '.join(MAPS)} according to its name, "
            f"got {stated.get('quant_type')!r:.40}"
        )
    shape, block = stated.get("shape"), _size(stated, "blocksize", state)
    if (
        not isinstance(shape, list)
        or len(shape) != 2
        or not all(type(s) is int and 0 < s < 2**31 for s in shape)
    ):
        raise CheckpointError(f"tensor {state!r:.120} must state a shape of two sizes, got {shape!r:.80}")
    count = math.prod(shape)
    scales = -(-count // block)
    check(source, name, ("U8",), (-(-count // 2), 1))
    check(source, f"{name}.quant_map", ("F32",), (16,))
    tensors, nested = [name, state, f"{name}.quant_map", f"{name}.absmax"], None
    if f"{name}.nested_absmax" in source.names:
        size = _size(stated, "nested_blocksize", state)
        offset = stated.get("nested_offset")
        largest = float(np.finfo(np.float32).max)
        if not isinstance(offset, int | float) or not -largest <= offset <= largest:
            raise CheckpointError(
                f"tensor {state!r:.120}: nested_offset must be a number of float32, got {offset!r:.40}"
            )
        check(source, f"{name}.absmax", ("U8",), (scales,))
        check(source, f"{name}.nested_quant_map", ("F32",), (256,))
        check(source, f"{name}.nested_absmax", ("F32",), (-(-scales // size),))
        tensors += [f"{name}.nested_quant_map", f"{name}.nested_absmax"]
        nested = (size, np.float32(offset))
    else:
        check(source, f"{name}.absmax", ("F32",), (scales,))
    return FourBits(source, name, kind.upper(), (shape[0], shape[1]), tensors, block, nested)


def _state(source: RawSource, name: str) -> Mapping[str, Any]:
    """Return the JSON object that is stored in a tensor of bytes."""
    shape = source.shape(name)
    if len(shape) != 1 or shape[0] > LARGEST_STATE:
        raise CheckpointError(f"tensor {name!r:.120} must be JSON of at most {LARGEST_STATE} bytes")
    check(source, name, ("U8",), shape)
    try:
        stated = parse(source.raw(name).tobytes().decode(), name)
    except UnicodeDecodeError:
        raise CheckpointError(f"tensor {name!r:.120} must be UTF-8") from None
    if not isinstance(stated, dict):
        raise CheckpointError(f"tensor {name!r:.120} must be a JSON object, got {stated!r:.80}")
    return stated


def _size(stated: Mapping[str, Any], key: str, name: str) -> int:
    size = stated.get(key)
    if type(size) is not int or not 2 <= size < 2**31 or size % 2:
        raise CheckpointError(
            f"tensor {name!r:.120}: {key} must be an even number of at least 2, got {size!r:.40}"
        )
    return size


@dataclass(frozen=True, eq=False)
class Int8:
    """A weight that bitsandbytes stores in int8, with a scale for each output."""

    source: RawSource
    name: str
    scale: str
    shape: Shape
    tensors: Collection[str]
    kind: str = "INT8"

    def load(self, part: int | None = None) -> np.ndarray:
        assert part is None, "only the weights of experts are stored together"
        weight = self.source.raw(self.name).astype(np.float32)
        with np.errstate(all="ignore"):  # whoever loads a weight checks that it is finite
            weight *= self.source.load(self.scale)[:, None]
            weight *= INVERSE
        return weight

    def native(self, part: int | None = None) -> Blocks | None:
        """Return the stored codes in blocks with the scales SCB / 127. Products with these scales may differ
        from `load` in the last bit.
        """
        codes = self.source.raw(self.name).view(np.uint8) ^ np.uint8(128)
        scale = self.source.load(self.scale)[:, None] * INVERSE
        group, _ = groups(codes.shape[1], None)
        return Affine(codes, scale, np.full(scale.shape, 128, np.int16), group, 8).blocks()


def _int8(source: RawSource, weight: str, scale: str) -> Int8:
    shape = check(source, weight, ("I8",))
    check(source, scale, ("F32",), (shape[0],))
    order = f"{scale.removesuffix('SCB')}weight_format"
    tensors = [weight, scale]
    if order in source.names:
        check(source, order, ("U8",), ())
        if int(source.raw(order)) != 0:
            raise CheckpointError(
                f"tensor {order!r:.120} must be 0 (by rows), but it is {int(source.raw(order))}"
            )
        tensors.append(order)
    return Int8(source, weight, scale, shape, tensors)

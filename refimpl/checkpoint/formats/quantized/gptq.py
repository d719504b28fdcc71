"""GPTQ's checkpoints (Frantar et al. 2022, arXiv:2210.17323), as AutoGPTQ and GPTQModel write them.

A module X of D inputs and F outputs, with codes of b bits in C groups:

    X.qweight  I32 [D · b / 32, F]    codes, packed along D
    X.qzeros   I32 [C, F · b / 32]    zero points, packed along F
    X.scales   float [C, F]
    X.g_idx    I32 [D]                the group of each input; if it is missing, neighbours form a group

    w[f, d] = scales[g, f] · (qweight[d, f] − zero[g, f]),  g = g_idx[d]

**Conventions.** checkpoint_format "gptq" (v1) stores zero − 1, "gptq_v2" stores zero. For v1, one is added
after unpacking, and the sum isn't cut to b bits, as in the kernels of both libraries. So a stored 2^b − 1 is
the zero point 2^b. With desc_act, groups are filled in the order of the inputs' importance, so g_idx isn't
sorted. GPTQModel's `dynamic` gives some modules other bits and groups. Packing: see `packed`.
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
from .weight import FLOATS, check, modules


@dataclass(frozen=True)
class Settings:
    """The settings of GPTQ that may differ between modules. A `group_size` of None means that all inputs are
    one group."""

    bits: int
    group_size: int | None


@dataclass(frozen=True)
class Gptq:
    """GPTQ's format with its settings. A module's settings are the settings of the first pattern in
    `overrides` that matches the module's name, or else `settings`.
    """

    settings: Settings
    zero_offset: int
    overrides: tuple[tuple[NamePattern, Settings], ...] = ()

    def weights(self, source: RawSource) -> Iterator[tuple[str, AffineWeight]]:
        work = Work("quantization_config")
        for module in modules(source, "qweight"):
            own = (own for pattern, own in self.overrides if pattern.matches(module, work, suffix=False))
            yield f"{module}.weight", self._weight(source, module, next(own, self.settings))

    def _weight(self, source: RawSource, module: str, settings: Settings) -> AffineWeight:
        bits = settings.bits
        words, outputs = check(source, f"{module}.qweight", ("I32",))
        if words * 32 % bits or outputs * bits % 32:
            raise CheckpointError(
                f"tensor '{module}.qweight' must contain whole words of {bits}-bit integers, but it has "
                f"shape {[words, outputs]}"
            )
        inputs = words * 32 // bits
        neighbours, count = groups(inputs, settings.group_size)
        names = {part: f"{module}.{part}" for part in ("qweight", "qzeros", "scales", "g_idx")}
        check(source, names["qzeros"], ("I32",), (count, outputs * bits // 32))
        check(source, names["scales"], FLOATS, (count, outputs))
        ordered = names["g_idx"] in source.names
        if ordered:
            check(source, names["g_idx"], ("I32",), (inputs,))

        def read() -> Affine:
            group = neighbours
            if ordered:
                group = checked_groups(source.raw(names["g_idx"]), count, names["g_idx"])
            zero = packed.unpack(source.raw(names["qzeros"]), bits, outputs)
            return Affine(
                codes=packed.unpack(source.raw(names["qweight"]).T, bits, inputs),
                scale=source.load(names["scales"]).T,
                zero=zero.astype(np.int16).T + np.int16(self.zero_offset),
                group=group,
                bits=bits,
            )

        tensors = tuple(names.values()) if ordered else tuple(names.values())[:3]
        return AffineWeight(f"GPTQ{bits}", (outputs, inputs), tensors, read)

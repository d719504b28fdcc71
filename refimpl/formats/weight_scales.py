"""Scales beside the weights of a GGUF file, which llama.cpp multiplies a product with: w = scale · stored.

X.weight       [F, D], or [E, F, D] for the experts of a mixture
X.scale        float32 [1], or [E]: NVFP4's scale of the whole tensor, and other formats' as well
X.input_scale  float32 [1]: by which devices with such products round their input; nothing is rounded here
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..ops.quant import Blocks
from .tensor_source import GgufSource

WEIGHT, SCALE, INPUT_SCALE = ".weight", ".scale", ".input_scale"
# Scales that are weights of the architecture's own: of Gemma 4 the norm before a router, and the factors of
# what experts give.
OWN = {"gemma4": ("ffn_gate_inp", "ffn_down_exps")}


class Rescaled:
    """A GGUF file whose weights are multiplied by their scales, which stop being tensors of their own."""

    def __init__(self, source: GgufSource) -> None:
        self._source = source
        present = set(source.names)
        own = OWN.get(str(source.metadata.get("general.architecture")), ())
        self._scales: dict[str, str] = {}
        hidden: set[str] = set()
        for name in source.names:
            module, _, last = name.rpartition(".")
            weight = module + WEIGHT
            if f".{last}" not in (SCALE, INPUT_SCALE) or weight not in present:
                continue
            if f".{last}" == SCALE and module.endswith(own):
                continue
            shape = source.shape(weight)
            allowed = [(1,), shape[:1]] if len(shape) == 3 else [(1,)]
            if source.kind(name) != "F32" or source.shape(name) not in allowed:
                shapes = " or ".join(str(list(one)) for one in allowed)
                raise CheckpointError(
                    f"{source.path}: tensor {name!r} must be F32 {shapes}, is {source.kind(name)} "
                    f"{list(source.shape(name))}"
                )
            hidden.add(name)
            if f".{last}" == SCALE:
                self._scales[weight] = name
        self._names = tuple(name for name in source.names if name not in hidden)

    @property
    def path(self) -> Path:
        return self._source.path

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._source.metadata

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def kind(self, name: str) -> str:
        return self._source.kind(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def _scale(self, name: str, part: int | None) -> np.ndarray | None:
        """The scale of a tensor or of its part, [1], or [E, 1, 1] for all experts; None without one."""
        if name not in self._scales:
            return None
        scale = self._source.load(self._scales[name])
        if len(scale) == 1:
            return scale
        return scale[:, None, None] if part is None else scale[part : part + 1]

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        weight, scale = self._source.load(name, part), self._scale(name, part)
        if scale is None:
            return weight
        with np.errstate(all="ignore"):  # whoever loads a weight checks that it is finite
            return weight * scale

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        blocks, scale = self._source.native(name, part), self._scale(name, part)
        if blocks is None or scale is None:
            return blocks
        with np.errstate(all="ignore"):
            minimum = None if blocks.minimum is None else blocks.minimum * scale
            return replace(blocks, scale=blocks.scale * scale, minimum=minimum)

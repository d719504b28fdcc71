"""Weights that a GGUF file keeps in its metadata: arrays with a number for each layer, under keys of an op.

xielu.alpha_p, xielu.alpha_n, xielu.beta, xielu.eps    float32 [layers]: the curves of xIELU (Apertus)
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..ops.quant import Blocks
from .tensor_source import GgufSource

OPS = ("xielu.",)


class LayerNumbers:
    """A GGUF file whose numbers KEY[i] of such arrays are tensors KEY.i, float32 [1], and no metadata."""

    def __init__(self, source: GgufSource) -> None:
        self._source = source
        arrays = {
            key: value
            for key, value in source.metadata.items()
            if key.startswith(OPS) and isinstance(value, np.ndarray) and value.dtype == np.float32
        }
        self._numbers = {
            f"{key}.{i}": values[i : i + 1] for key, values in arrays.items() for i in range(len(values))
        }
        self._metadata = {key: value for key, value in source.metadata.items() if key not in arrays}

    @property
    def path(self) -> Path:
        return self._source.path

    @property
    def metadata(self) -> Mapping[str, Any]:
        return self._metadata

    @property
    def names(self) -> tuple[str, ...]:
        return (*self._source.names, *self._numbers)

    def kind(self, name: str) -> str:
        return "F32" if name in self._numbers else self._source.kind(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return (1,) if name in self._numbers else self._source.shape(name)

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        return self._numbers[name] if name in self._numbers else self._source.load(name, part)

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        return None if name in self._numbers else self._source.native(name, part)

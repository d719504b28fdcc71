"""Read a file with quantized weights as a TensorSource. Each weight has the name that it would have in a
float checkpoint.
"""

from __future__ import annotations

import numpy as np

from ....errors import CheckpointError
from ....ops.quant import Blocks
from ..tensor_source import RawSource, TensorSource
from .weight import Quantization


class Quantized:
    """The tensors of `source`, with each quantized weight in place of the tensors in which it is stored.

    Raises CheckpointError if a quantized weight lacks a tensor or has a tensor of another type or shape, or
    if there is no quantized weight at all.
    """

    def __init__(self, source: RawSource, quantization: Quantization) -> None:
        self._source: TensorSource = source
        self._weights = dict(quantization.form.weights(source))
        if not self._weights:
            raise CheckpointError(
                "config.json has a quantization_config, but no weight is quantized: does config.json belong "
                "to another model?"
            )
        for name in self._weights:
            if any(f".{module}." in f".{name}" for module in quantization.floats):
                raise CheckpointError(
                    f"tensor {name!r:.120} is quantized, but config.json lists this tensor as unquantized"
                )
        hidden = {tensor for weight in self._weights.values() for tensor in weight.tensors}
        hidden |= {name for name in source.names if name.rpartition(".")[2] in quantization.unused}
        plain = [name for name in source.names if name not in hidden]
        if twice := [name for name in plain if name in self._weights]:
            raise CheckpointError(
                f"tensor {twice[0]!r:.120} must not be stored twice, quantized and unquantized"
            )
        self._names = (*plain, *self._weights)

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    def kind(self, name: str) -> str:
        return self._weights[name].kind if name in self._weights else self._source.kind(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights[name].shape if name in self._weights else self._source.shape(name)

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        weight = self._weights.get(name)
        return self._source.load(name, part) if weight is None else weight.load(part)

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        return self._weights[name].native(part) if name in self._weights else None

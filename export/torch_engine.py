"""The torch engine: the mirror, run eagerly over the same cache as the specification."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from ..refimpl.config import Config
from ..refimpl.engine.numpy_engine import ArrayEngine, Forward
from ..refimpl.ops.cross_attention import EncoderKV as ArrayEncoderKV
from ..refimpl.ops.quant import Blocks as ArrayBlocks
from ..refimpl.params.tree import map_leaves
from .ops import encoder, model
from .ops.cross_attention import EncoderKV
from .ops.quant import Blocks


def tensors(leaf: np.ndarray | ArrayBlocks) -> Any:
    """A leaf of the specification's tree as the mirror's, in shared memory where torch allows it."""
    if isinstance(leaf, ArrayBlocks):
        values: dict[str, Any] = {f.name: getattr(leaf, f.name) for f in fields(leaf)}
        values |= {k: _shared(v) for k, v in values.items() if isinstance(v, np.ndarray)}
        return Blocks(**values)
    return _shared(leaf)


def _shared(array: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        # Broadcast arrays are read-only, and nothing here writes to them.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def _like(value: Any, items: Iterable[Any]) -> Any:
    """These items as a list, tuple or NamedTuple of the value's type."""
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _to_numpy(value: Any) -> Any:
    if isinstance(value, EncoderKV):
        return ArrayEncoderKV(*map(_to_numpy, value))
    if isinstance(value, tuple | list):
        return _like(value, map(_to_numpy, value))
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _to_torch(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return _like(value, map(_to_torch, value))
    if isinstance(value, dict):
        return {key: _to_torch(item) for key, item in value.items()}
    return _shared(value) if isinstance(value, np.ndarray) else value


class TorchEngine(ArrayEngine):
    """`ops.model` and `ops.encoder` of the mirror; arrays become tensors and back without a copy."""

    def __init__(self, config: Config, params: Any) -> None:
        leaves = map_leaves(lambda _, leaf: tensors(leaf), params)

        def on_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
            @torch.no_grad()
            def call(*arguments: Any, config: Config) -> Any:
                mapped = (leaves if value is params else _to_torch(value) for value in arguments)
                return _to_numpy(function(*mapped, config=config))

            return call

        functions = (model.model, encoder.encode, encoder.encoder_kv, encoder.predict)
        functions += (model.model_with_hidden, model.mtp_model)
        super().__init__(config, params, Forward(*map(on_arrays, functions)))

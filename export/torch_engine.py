"""The PyTorch engine runs the specification over tensors, eagerly, with the same cache as the NumPy
engine.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from ..refimpl.config import Config
from ..refimpl.engine.numpy_engine import ArrayEngine, T
from ..refimpl.ops.quant import Blocks
from ..refimpl.params.tree import like, map_leaves
from .dispatch import on_torch


def tensors(leaf: np.ndarray | Blocks) -> Any:
    """Return a parameter of the specification with tensors in place of its NumPy arrays.

    The tensors share the arrays' memory if torch allows it.
    """
    if isinstance(leaf, Blocks):
        values = {f.name: getattr(leaf, f.name) for f in fields(leaf)}
        return replace(leaf, **{k: _shared(v) for k, v in values.items() if isinstance(v, np.ndarray)})
    return _shared(leaf)


def _shared(array: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        # Broadcast arrays are read-only, and nothing here writes to them.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


def _to_numpy(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return like(value, map(_to_numpy, value))
    return value.numpy() if isinstance(value, torch.Tensor) else value


def to_torch(value: Any) -> Any:
    """Convert arrays to tensors, including those inside tuples, lists and dicts."""
    if isinstance(value, tuple | list):
        return like(value, map(to_torch, value))
    if isinstance(value, dict):
        return {key: to_torch(item) for key, item in value.items()}
    return _shared(value) if isinstance(value, np.ndarray) else value


class TorchEngine(ArrayEngine):
    """An engine that runs `ops.model` and `ops.encoder` over PyTorch tensors. NumPy arrays become tensors,
    and tensors become arrays, without a copy.
    """

    def __init__(self, config: Config, params: Any) -> None:
        super().__init__(config, params)
        self._leaves = map_leaves(lambda _, leaf: tensors(leaf), params)

    @torch.no_grad()
    def run(self, function: Callable[..., T], *arguments: Any, config: Config) -> T:
        mapped = (self._leaves if value is self.params else to_torch(value) for value in arguments)
        with on_torch():
            return _to_numpy(function(*mapped, config=config))

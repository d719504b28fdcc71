"""The torch engine: the mirror, run eagerly over the same cache as the specification."""

from __future__ import annotations

import warnings
from dataclasses import fields
from typing import Any

import numpy as np
import torch

from ..refimpl import params as trees
from ..refimpl.config import Config
from ..refimpl.engine import ArrayEngine
from ..refimpl.ops.quant import Blocks as ArrayBlocks
from .module import Decoder
from .ops.quant import Blocks


def tensors(leaf: np.ndarray | ArrayBlocks) -> Any:
    """A leaf of the specification's tree as the mirror's: memory is shared where torch allows it."""
    if isinstance(leaf, ArrayBlocks):
        values: dict[str, Any] = {f.name: getattr(leaf, f.name) for f in fields(leaf)}
        values |= {k: _shared(v) for k, v in values.items() if isinstance(v, np.ndarray)}
        return Blocks(**values)
    return _shared(leaf)


def _shared(array: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        # Weights mapped from a file are read-only, and nothing here writes to them.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        return torch.from_numpy(array)


class TorchEngine(ArrayEngine):
    """`ops.model` of the mirror; keys, values and logits cross as NumPy arrays without a copy."""

    def __init__(self, config: Config, params: Any) -> None:
        module = Decoder(config, trees.map_leaves(lambda _, leaf: tensors(leaf), params)).eval()

        @torch.no_grad()
        def forward(
            tokens: Any, past: Any, at: Any, tables: Any, layers: Any, tree: Any, *, config: Config
        ) -> Any:
            given = [tuple(map(torch.from_numpy, tables[rope])) for rope in config.ropes]
            cache = [(torch.from_numpy(k), torch.from_numpy(v)) for k, v in layers]
            ids, held, wanted = map(torch.from_numpy, (tokens, past, at))
            logits, new = module(ids, held, wanted, given, cache)
            return logits.numpy(), [(k.numpy(), v.numpy()) for k, v in new]

        super().__init__(config, params, forward)

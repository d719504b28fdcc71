"""Engines whose cache is NumPy arrays: the specification itself, run, and what shares its loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import Config
from ..errors import TfmError
from ..ops import encoder, model
from ..ops.cache import KVCache
from ..ops.cross_attention import EncoderKV
from ..ops.model import position_tables
from ..ops.position import Rotary
from ..ops.quant import Blocks
from .protocol import check_lengths, check_predict, check_rows, check_start, check_step, check_text


class ArrayCache:
    """Keys and values as NumPy arrays, a `KVCache` for each layer; dead after its first use.

    `encoder_kv` is what each layer of a decoder reads of an encoder's output.
    """

    def __init__(
        self, lengths: np.ndarray, layers: list[KVCache], encoder_kv: list[EncoderKV] | None = None
    ) -> None:
        self._lengths, self._layers, self.encoder_kv = lengths, layers, encoder_kv

    @property
    def lengths(self) -> np.ndarray:
        return self._lengths

    @property
    def floor(self) -> np.ndarray:
        return np.zeros_like(self._lengths)

    @property
    def capacity(self) -> int:
        return self._layers[0].keys.shape[2] if self._layers else 0

    def take(self) -> list[KVCache]:
        """The arrays, once: whoever asks again holds a cache that another engine has overwritten."""
        layers, self._layers = self._layers, []
        if not layers:
            raise TfmError("this cache was used already: go on with the one that step returned")
        return layers

    def truncate(self, lengths: np.ndarray) -> ArrayCache:
        return ArrayCache(check_lengths(self._lengths, lengths, self.floor), self.take(), self.encoder_kv)

    def select(self, rows: np.ndarray) -> ArrayCache:
        rows = check_rows(len(self._lengths), rows)
        encoder_kv = self.encoder_kv
        if encoder_kv is not None:
            encoder_kv = [layer.select(rows) for layer in encoder_kv]
        layers = [layer.select(rows) for layer in self.take()]
        return ArrayCache(self._lengths[rows], layers, encoder_kv)


@dataclass(frozen=True)
class Forward:
    """The functions that an engine is made of, with the signatures of `ops.model` and `ops.encoder`."""

    model: Callable[..., Any]
    encode: Callable[..., Any]
    encoder_kv: Callable[..., Any]
    predict: Callable[..., Any]


class ArrayEngine:
    """An engine whose cache is NumPy arrays, made of the functions in `forward`.

    It computes in the weights' type. The tables of cosines and sines double when they are outgrown;
    each step hands `forward` just the cache rows that exist.
    """

    def __init__(self, config: Config, params: Any, forward: Forward) -> None:
        self.config, self.params, self.forward = config, params, forward
        self._tables: dict[Any, Rotary] = {}
        self._rows = 0
        self.dtype = _dtype(params)

    def _ropes(self, rows: int) -> dict[Any, Rotary]:
        if rows > self._rows:
            self._rows = max(rows, 2 * self._rows, 64)
            made = position_tables(np.arange(self._rows), config=self.config)
            self._tables = {
                rope: Rotary(cos.astype(self.dtype), sin.astype(self.dtype))
                for rope, (cos, sin) in made.items()
            }
        return {rope: Rotary(cos[:rows], sin[:rows]) for rope, (cos, sin) in self._tables.items()}

    def start(
        self,
        batch: int = 1,
        encoder_ids: np.ndarray | None = None,
        encoder_lengths: np.ndarray | None = None,
    ) -> ArrayCache:
        """An empty cache for `batch` rows; a model with an encoder reads the rows of its text [B, S] first.

        What `check_start` says is raised.
        """
        check_start(self.config, batch, encoder_ids)
        encoder_kv = None
        if encoder_ids is not None:
            states, lengths = self._encoded(encoder_ids, encoder_lengths, None)
            encoder_kv = self.forward.encoder_kv(states, lengths, self.params, config=self.config)
        empty = [
            np.zeros((batch, layer.attention.kv_heads, 0, layer.attention.head_size), self.dtype)
            for layer in self.config.layers
        ]
        return ArrayCache(np.zeros(batch, np.int64), [KVCache(e, e) for e in empty], encoder_kv)

    def encode(
        self, ids: np.ndarray, lengths: np.ndarray | None = None, types: np.ndarray | None = None
    ) -> np.ndarray:
        """The encoder's vectors [B, T, D] of the ids [B, T], of which `lengths` [B] are real."""
        return self._encoded(ids, lengths, types)[0]

    def predict(
        self, ids: np.ndarray, lengths: np.ndarray | None = None, types: np.ndarray | None = None
    ) -> np.ndarray:
        """What an encoder's head says of the ids: see `ops.encoder.predict`."""
        check_predict(self.config)
        states, lengths = self._encoded(ids, lengths, types)
        return self.forward.predict(states, lengths, self.params, config=self.config)

    def _encoded(
        self, ids: np.ndarray, lengths: np.ndarray | None, types: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        ids, lengths, types = check_text(self.config, ids, lengths, types)
        tables = self._ropes(ids.shape[1])
        return self.forward.encode(ids, lengths, tables, self.params, types, config=self.config), lengths

    def step(
        self,
        tokens: np.ndarray,
        cache: ArrayCache,
        lengths: np.ndarray | None = None,
        at: np.ndarray | None = None,
    ) -> tuple[np.ndarray, ArrayCache]:
        """Logits at the wanted positions and the cache with the tokens in it."""
        past = cache.lengths
        tokens, lengths, at = check_step(self.config, tokens, past, lengths, at)
        rows = int(past.max()) + tokens.shape[1]
        layers = [layer.grow(rows) for layer in cache.take()]
        encoder_kv = cache.encoder_kv
        logits, layers = self.forward.model(
            tokens, past, at, self._ropes(rows), layers, self.params, encoder_kv, config=self.config
        )
        return logits, ArrayCache(past + lengths, layers, encoder_kv)


def _dtype(params: Any) -> np.dtype:
    """The type that the weights compute in, from the smallest leaf that every model has or may have."""
    for stack in ("decoder", "encoder"):
        if "norm" in params.get(stack, {}):
            norm = params[stack]["norm"]
            return norm[next(iter(norm))].dtype
    table = params["embedding"]["table"]
    return table.scale.dtype if isinstance(table, Blocks) else table.dtype


class NumpyEngine(ArrayEngine):
    """The specification, run: `ops.model` and `ops.encoder` themselves."""

    def __init__(self, config: Config, params: Any) -> None:
        functions = Forward(model.model, encoder.encode, encoder.encoder_kv, encoder.predict)
        super().__init__(config, params, functions)

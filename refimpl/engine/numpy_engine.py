"""Engines whose cache is NumPy arrays: the specification itself, run, and what shares its loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import Config
from ..errors import TfmError
from ..ops import encoder, model
from ..ops.model import position_tables
from ..ops.quant import Blocks
from .protocol import check_lengths, check_predict, check_rows, check_start, check_step, check_text

Pairs = list[tuple[np.ndarray, np.ndarray]]


class ArrayCache:
    """Keys and values as NumPy arrays, a pair [B, G, L, K] a layer; dead after its first use.

    `memory` is what a decoder reads of an encoder's output: pairs [B, G, S, K] and lengths [B].
    """

    def __init__(
        self, lengths: np.ndarray, layers: Pairs, memory: tuple[Pairs, np.ndarray] | None = None
    ) -> None:
        self._lengths, self._layers, self.memory = lengths, layers, memory

    @property
    def lengths(self) -> np.ndarray:
        return self._lengths

    @property
    def floor(self) -> np.ndarray:
        return np.zeros_like(self._lengths)

    @property
    def capacity(self) -> int:
        return self._layers[0][0].shape[2] if self._layers else 0

    def take(self) -> Pairs:
        """The arrays, once: whoever asks again holds a cache that another engine has overwritten."""
        layers, self._layers = self._layers, []
        if not layers:
            raise TfmError("this cache was used already: go on with the one that step returned")
        return layers

    def truncate(self, lengths: np.ndarray) -> ArrayCache:
        return ArrayCache(check_lengths(self._lengths, lengths, self.floor), self.take(), self.memory)

    def select(self, rows: np.ndarray) -> ArrayCache:
        rows = check_rows(len(self._lengths), rows)
        memory = self.memory
        if memory is not None:
            memory = [(k[rows], v[rows]) for k, v in memory[0]], memory[1][rows]
        return ArrayCache(self._lengths[rows], [(k[rows], v[rows]) for k, v in self.take()], memory)


@dataclass(frozen=True)
class Forward:
    """The functions that an engine is made of, with the signatures of `ops.model` and `ops.encoder`."""

    model: Callable[..., Any]
    encode: Callable[..., Any]
    memory: Callable[..., Any]
    predict: Callable[..., Any]


class ArrayEngine:
    """An engine whose cache is NumPy arrays, made of the functions in `forward`.

    It computes in the weights' type. The tables of cosines and sines double when they are outgrown;
    each step hands `forward` just the cache rows that exist.
    """

    def __init__(self, config: Config, params: Any, forward: Forward) -> None:
        self.config, self.params, self.forward = config, params, forward
        self._tables: dict[Any, tuple[np.ndarray, np.ndarray]] = {}
        self._rows = 0
        self.dtype = _dtype(params)

    def _ropes(self, rows: int) -> dict[Any, tuple[np.ndarray, np.ndarray]]:
        if rows > self._rows:
            self._rows = max(rows, 2 * self._rows, 64)
            made = position_tables(np.arange(self._rows), config=self.config)
            self._tables = {
                rope: (cos.astype(self.dtype), sin.astype(self.dtype)) for rope, (cos, sin) in made.items()
            }
        return {rope: (cos[:rows], sin[:rows]) for rope, (cos, sin) in self._tables.items()}

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
        memory = None
        if encoder_ids is not None:
            states, lengths = self._encoded(encoder_ids, encoder_lengths, None)
            memory = self.forward.memory(states, self.params, config=self.config), lengths
        empty = [
            np.zeros((batch, layer.attention.kv_heads, 0, layer.attention.head_size), self.dtype)
            for layer in self.config.layers
        ]
        return ArrayCache(np.zeros(batch, np.int64), [(e, e) for e in empty], memory)

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
        layers = [(_room(k, rows), _room(v, rows)) for k, v in cache.take()]
        memory = cache.memory
        logits, layers = self.forward.model(
            tokens, past, at, self._ropes(rows), layers, self.params, memory, config=self.config
        )
        return logits, ArrayCache(past + lengths, layers, memory)


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
        functions = Forward(model.model, encoder.encode, encoder.memory, encoder.predict)
        super().__init__(config, params, functions)


def _room(cache: np.ndarray, rows: int) -> np.ndarray:
    """The cache with exactly `rows` rows: cut, or filled up with zeros."""
    b, g, held, k = cache.shape
    if held >= rows:
        return cache[:, :, :rows]
    return np.concatenate([cache, np.zeros((b, g, rows - held, k), cache.dtype)], axis=2)

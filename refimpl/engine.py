"""The seam that three engines share, and the NumPy engine.

    engine.start(batch) -> cache
    engine.step(tokens[B,T], cache, lengths[B]=T, at[B,P]=last) -> (logits[B,P,N], cache)
    cache: lengths[B], capacity, truncate(lengths), select(rows)

Rows are padded on the right: `lengths` says how many tokens of a row are real, `at` whose logits
are wanted. A cache is used once: after `step`, `truncate` or `select` the old value is dead,
because ONNX Runtime writes in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from .config import Config
from .errors import LimitError, TfmError
from .ops.model import model, position_tables
from .ops.quant import Blocks


class Cache(Protocol):
    """Running state of a batch: `lengths` tokens of each row are in it, `capacity` have room."""

    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def capacity(self) -> int: ...
    def truncate(self, lengths: np.ndarray) -> Cache:
        """The same rows, cut back to `lengths` tokens each."""
        ...

    def select(self, rows: np.ndarray) -> Cache:
        """The named rows in the named order; a row may be named twice (beams) or not at all."""
        ...


class Engine(Protocol):
    """What generates: the NumPy, torch and ONNX Runtime engines."""

    @property
    def config(self) -> Config: ...
    def start(self, batch: int = 1) -> Any: ...
    def step(
        self,
        tokens: np.ndarray,
        cache: Any,
        lengths: np.ndarray | None = None,
        at: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Any]: ...


def check_step(
    config: Config,
    tokens: np.ndarray,
    past: np.ndarray,
    lengths: np.ndarray | None,
    at: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The arguments of `step`, checked and completed: (tokens, lengths, at), all int64.

    Raises LimitError for an id outside the vocabulary, a length outside 0 … T, a position outside
    the row, or a row that would outgrow the context. `at` None means each row's last real token.
    """
    tokens = np.asarray(tokens, np.int64)
    if tokens.ndim != 2 or tokens.shape[0] != len(past) or tokens.shape[1] < 1:
        raise LimitError(f"tokens must be [{len(past)}, T ≥ 1], got shape {tokens.shape}")
    batch, t = tokens.shape
    lengths = np.full(batch, t, np.int64) if lengths is None else np.asarray(lengths, np.int64)
    if lengths.shape != (batch,) or lengths.min() < 0 or lengths.max() > t:
        raise LimitError(f"lengths must be {batch} numbers from 0 to {t}, got {lengths.tolist()}")
    n = config.embedding.vocabulary
    if tokens.min() < 0 or tokens.max() >= n:
        raise LimitError(f"token ids must be 0 to {n - 1}, got {tokens.min()} to {tokens.max()}")
    if (longest := int((past + lengths).max())) > config.context:
        raise LimitError(f"the text would be {longest} tokens long, the model's context is {config.context}")
    at = np.maximum(lengths - 1, 0)[:, None] if at is None else np.asarray(at, np.int64)
    if at.ndim != 2 or at.shape[0] != batch or (at.size and (at.min() < 0 or at.max() >= t)):
        raise LimitError(f"at must be [{batch}, P] positions from 0 to {t - 1}, got {at.tolist()}")
    return tokens, lengths, at


def check_lengths(past: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The argument of `truncate` as int64; LimitError unless each row gets 0 … its own length."""
    lengths = np.asarray(lengths, np.int64)
    if lengths.shape != past.shape or (lengths < 0).any() or (lengths > past).any():
        raise LimitError(f"a cache of lengths {past.tolist()} can't be cut to {lengths.tolist()}")
    return lengths


def check_rows(batch: int, rows: np.ndarray) -> np.ndarray:
    """The argument of `select` as int64; LimitError unless each is a row of the batch."""
    rows = np.asarray(rows, np.int64)
    if rows.ndim != 1 or len(rows) < 1 or rows.min() < 0 or rows.max() >= batch:
        raise LimitError(f"rows must be from 0 to {batch - 1}, got {rows.tolist()}")
    return rows


class ArrayCache:
    """Keys and values as NumPy arrays, a pair [B, G, L, K] a layer; dead after its first use."""

    def __init__(self, lengths: np.ndarray, layers: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self._lengths, self._layers = lengths, layers

    @property
    def lengths(self) -> np.ndarray:
        return self._lengths

    @property
    def capacity(self) -> int:
        return self._layers[0][0].shape[2] if self._layers else 0

    def take(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The arrays, once: whoever asks again holds a cache that another engine has overwritten."""
        layers, self._layers = self._layers, []
        if not layers:
            raise TfmError("this cache was used already: go on with the one that step returned")
        return layers

    def truncate(self, lengths: np.ndarray) -> ArrayCache:
        return ArrayCache(check_lengths(self._lengths, lengths), self.take())

    def select(self, rows: np.ndarray) -> ArrayCache:
        rows = check_rows(len(self._lengths), rows)
        return ArrayCache(self._lengths[rows], [(k[rows], v[rows]) for k, v in self.take()])


class ArrayEngine:
    """An engine whose cache is NumPy arrays; `forward` has the signature of `ops.model.model`.

    It computes in the weights' type. The tables of cosines and sines double when they are outgrown;
    each step hands `forward` just the cache rows that exist.
    """

    def __init__(self, config: Config, params: Any, forward: Callable[..., Any]) -> None:
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

    def start(self, batch: int = 1) -> ArrayCache:
        """An empty cache for `batch` rows."""
        empty = [
            np.zeros((batch, layer.attention.groups, 0, layer.attention.head_size), self.dtype)
            for layer in self.config.decoder.layers
        ]
        return ArrayCache(np.zeros(batch, np.int64), [(e, e) for e in empty])

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
        logits, layers = self.forward(
            tokens, past, at, self._ropes(rows), layers, self.params, config=self.config
        )
        return logits, ArrayCache(past + lengths, layers)


def _dtype(params: Any) -> np.dtype:
    """The type that the weights compute in, from the smallest leaf that every model has or may have."""
    if "norm" in params["decoder"]:
        return params["decoder"]["norm"]["weight"].dtype
    table = params["embedding"]["table"]
    return table.scale.dtype if isinstance(table, Blocks) else table.dtype


class NumpyEngine(ArrayEngine):
    """The specification, run: `ops.model` itself."""

    def __init__(self, config: Config, params: Any) -> None:
        super().__init__(config, params, model)


def _room(cache: np.ndarray, rows: int) -> np.ndarray:
    """The cache with exactly `rows` rows: cut, or filled up with zeros."""
    b, g, held, k = cache.shape
    if held >= rows:
        return cache[:, :, :rows]
    return np.concatenate([cache, np.zeros((b, g, rows - held, k), cache.dtype)], axis=2)

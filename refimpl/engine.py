"""The seam that three engines share, and the NumPy engine.

    engine.start(batch, encoder_ids=None, encoder_lengths=None) -> cache
    engine.step(tokens[B,T], cache, lengths[B]=T, at[B,P]=last) -> (logits[B,P,N], cache)
    engine.predict(ids[B,T], lengths[B]=T, types[B,T]=0) -> what an encoder's head says
    cache: lengths[B], floor[B], capacity, truncate(lengths), select(rows)

Rows are padded on the right: `lengths` says how many tokens of a row are real, `at` whose logits
are wanted. A cache is used once: after `step`, `truncate` or `select` the old value is dead,
because ONNX Runtime writes in place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from .config import Config
from .errors import ConfigError, LimitError, TfmError
from .ops import encoder, model
from .ops.model import position_tables
from .ops.quant import Blocks


class Cache(Protocol):
    """Running state of a batch: `lengths` tokens of each row are in it, `capacity` have room.

    A row can be cut to no tokens, or to `floor` and more: of a layer with a window a cache may hold only the
    latest.
    """

    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def floor(self) -> np.ndarray: ...
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
    def start(
        self,
        batch: int = 1,
        encoder_ids: np.ndarray | None = None,
        encoder_lengths: np.ndarray | None = None,
    ) -> Any: ...
    def step(
        self,
        tokens: np.ndarray,
        cache: Any,
        lengths: np.ndarray | None = None,
        at: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Any]: ...
    def predict(
        self, ids: np.ndarray, lengths: np.ndarray | None = None, types: np.ndarray | None = None
    ) -> np.ndarray: ...


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


def check_start(config: Config, batch: int, encoder_ids: np.ndarray | None) -> None:
    """Raise ConfigError for a model without a decoder, and for an encoder's text that is there without an
    encoder, or missing with one; LimitError for one of other rows."""
    if config.decoder is None:
        raise ConfigError("a model without a decoder has no steps: use predict")
    if (encoder_ids is None) == (config.encoder is not None):
        needs, got = ("needs", "none") if encoder_ids is None else ("takes no", "some")
        raise ConfigError(f"start {needs} encoder_ids for this model, got {got}")
    if encoder_ids is not None and len(encoder_ids) != batch:
        raise LimitError(f"encoder_ids must have {batch} rows, got {len(encoder_ids)}")


def check_predict(config: Config) -> None:
    """Raise ConfigError for a model with a decoder."""
    if config.decoder is not None:
        raise ConfigError("a model with a decoder predicts step by step: use start and step")


def check_text(
    config: Config, ids: np.ndarray, lengths: np.ndarray | None, types: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """An encoder's text, checked and completed: (ids, lengths, types), all int64."""
    if config.encoder is None:
        raise ConfigError("a model without an encoder can't encode")
    ids, lengths, _ = check_step(config, ids, np.zeros(len(ids), np.int64), lengths, None)
    if types is not None:
        types, rows = np.asarray(types, np.int64), config.embedding.types or 0
        if types.shape != ids.shape or types.min() < 0 or types.max() >= rows:
            shape = list(ids.shape)
            raise LimitError(
                f"types must be {shape} numbers from 0 to {rows - 1}, got {types.tolist()!r:.80}"
            )
    return ids, lengths, types


def check_lengths(past: np.ndarray, lengths: np.ndarray, floor: np.ndarray) -> np.ndarray:
    """The argument of `truncate` as int64; LimitError unless each row gets 0, or floor … its own length."""
    lengths = np.asarray(lengths, np.int64)
    if lengths.shape != past.shape or (lengths < 0).any() or (lengths > past).any():
        raise LimitError(f"a cache of lengths {past.tolist()} can't be cut to {lengths.tolist()}")
    if len(low := np.flatnonzero((lengths > 0) & (lengths < floor))):
        row = int(low[0])
        raise LimitError(
            f"row {row} can be cut to {floor[row]} tokens or more, or to none, got {lengths[row]}: what a "
            "window saw before was overwritten"
        )
    return lengths


def check_rows(batch: int, rows: np.ndarray) -> np.ndarray:
    """The argument of `select` as int64; LimitError unless each is a row of the batch."""
    rows = np.asarray(rows, np.int64)
    if rows.ndim != 1 or len(rows) < 1 or rows.min() < 0 or rows.max() >= batch:
        raise LimitError(f"rows must be from 0 to {batch - 1}, got {rows.tolist()}")
    return rows


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
            np.zeros((batch, layer.attention.groups, 0, layer.attention.head_size), self.dtype)
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

"""The engine that runs the specification in NumPy, and the base class that it shares with the PyTorch
engine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from ..config import Config, Encoder, Rope
from ..ops.block import MixerCache
from ..ops.cross_attention import EncoderKV
from ..ops.encoder import encode, encoder_kv, pooled_lengths, predict
from ..ops.model import ModelWeights, model, model_with_hidden, mtp_model
from ..ops.position import Rotary
from ..ops.position_tables import position_tables
from ..ops.quant import Blocks
from .cache_kinds import Arrays, CacheKind, cache_kinds, check_lengths, floor
from .cross_attention_maps import Head, cross_attention_maps
from .protocol import (
    Cache,
    check_mtp,
    check_predict,
    check_put,
    check_rows,
    check_start,
    check_step,
    check_text,
    foreign_cache_error,
    used_cache_error,
)

T = TypeVar("T")
Layers = list[MixerCache]  # what each layer keeps, as its kind says


@dataclass
class ArrayCache:
    """A cache of NumPy arrays: each layer's arrays, and the length of each row [B]. Only one step can use it.

    Every token is kept, even if no window sees it any more. `encoder_kv` contains the keys and values of the
    encoder's output, for each decoder layer that reads them.
    """

    kinds: tuple[CacheKind, ...]
    lengths: np.ndarray
    capacity: int
    layers: Layers
    encoder_kv: list[EncoderKV] | None = None

    @property
    def floor(self) -> np.ndarray:
        return floor(self.kinds, self.lengths, {})

    @property
    def nbytes(self) -> int:
        encoder = sum(layer.keys.nbytes + layer.values.nbytes for layer in self.encoder_kv or ())
        return sum(layer.nbytes for layer in self.layers) + encoder

    def take(self) -> Layers:
        """Return the cache's arrays and invalidate the cache.

        A second call raises an error, since an engine may already have overwritten the arrays.
        """
        layers, self.layers = self._alive(), []
        return layers

    def truncate(self, lengths: np.ndarray) -> ArrayCache:
        lengths = check_lengths(self.kinds, self.lengths, lengths, {})
        return replace(self, lengths=lengths, layers=self.take())

    def select(self, rows: np.ndarray) -> ArrayCache:
        rows = check_rows(len(self.lengths), rows)
        encoder_kv = self.encoder_kv
        if encoder_kv is not None:
            encoder_kv = [layer.select(rows) for layer in encoder_kv]
        layers = [layer.select(rows) for layer in self.take()]
        return replace(self, lengths=self.lengths[rows], layers=layers, encoder_kv=encoder_kv)

    def grow(self, capacity: int) -> ArrayCache:
        capacity = max(capacity, self.capacity)
        return replace(self, capacity=capacity, layers=[layer.grow(capacity) for layer in self.take()])

    def copy(self, row: int) -> ArrayCache:
        rows = check_rows(len(self.lengths), np.array([row]))
        encoder_kv = self.encoder_kv and [layer.select(rows) for layer in self.encoder_kv]
        layers = [layer.select(rows) for layer in self._alive()]
        return replace(self, lengths=self.lengths[rows], layers=layers, encoder_kv=encoder_kv)

    def put(self, row: int, cache: Cache, length: int) -> ArrayCache:
        if not isinstance(cache, ArrayCache):
            raise foreign_cache_error(cache)
        check_put(self, row, cache)
        lengths = self.lengths.copy()
        (lengths[row],) = check_lengths(self.kinds, cache.lengths, np.array([length]), {})
        made = replace(self.grow(length), lengths=lengths)
        for kind, source, target in zip(self.kinds, cache._alive(), made.layers, strict=True):
            # What a layer's cache has beside its arrays is the same for all rows.
            count = len(kind.arrays)
            kind.copy_row(cast(Arrays, source[:count]), 0, cast(Arrays, target[:count]), row, length)
        return made

    def _alive(self) -> Layers:
        if not self.layers:
            raise used_cache_error()
        return self.layers


class ArrayEngine:
    """An engine with a cache of NumPy arrays. It computes with `ops.model` and `ops.encoder`, through `run`.

    The engine computes in the weights' type. Its tables of cosines and sines double in size when a text
    outgrows them. In each step, the caches that `model` reads have room for exactly the step's tokens.
    """

    def __init__(self, config: Config, params: Mapping[str, Any]) -> None:
        self.config = config
        self.params = params
        self._weights = cast(ModelWeights, params)
        self.kinds = cache_kinds(config)
        self.dtype = dtype_of(params)
        self._tables: dict[Rope, Rotary] = {}
        self._positions = 0

    def run(self, function: Callable[..., T], *arguments: Any, config: Config) -> T:
        """Call the function and return its result. Subclasses override it to replace ops or convert
        arrays.
        """
        return function(*arguments, config=config)

    def _rotary(self, count: int) -> dict[Rope, Rotary]:
        """Return the cosines and sines of the first `count` positions."""
        if count > self._positions:
            self._positions = max(count, 2 * self._positions, 64)
            self._tables = rotary_tables(self._positions, self.dtype, config=self.config)
        return {rope: Rotary(cos[:count], sin[:count]) for rope, (cos, sin) in self._tables.items()}

    def start(
        self,
        batch: int = 1,
        encoder_ids: np.ndarray | None = None,
        encoder_lengths: np.ndarray | None = None,
    ) -> ArrayCache:
        """Return an empty cache for `batch` rows.

        If the model has an encoder, the encoder first reads its texts [B, S]. The encoder of a speech model
        reads frames [B, 2·S, C] instead. Raises the errors of `check_start`.
        """
        check_start(self.config, batch, encoder_ids)
        read = None
        if encoder_ids is not None:
            states, lengths = self._encoded(encoder_ids, encoder_lengths, None)
            read = self.run(encoder_kv, states, lengths, self._weights, config=self.config)
        return self.reading(read, batch)

    def reading(self, encoder_kv: list[EncoderKV] | None, batch: int = 1) -> ArrayCache:
        """Return an empty cache for `batch` rows, given the keys and values of an encoder's output."""
        layers = [kind.empty(batch, 0, self.dtype) for kind in self.kinds]
        return ArrayCache(self.kinds, np.zeros(batch, np.int64), 0, layers, encoder_kv)

    def encode(
        self, ids: np.ndarray, lengths: np.ndarray | None = None, token_types: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the encoder's hidden states [B, T, D] for ids [B, T]. The first `lengths` [B] ids of each
        row are real.
        """
        return self._encoded(ids, lengths, token_types)[0]

    def predict(
        self, ids: np.ndarray, lengths: np.ndarray | None = None, token_types: np.ndarray | None = None
    ) -> np.ndarray:
        """Run an encoder with its head on the ids, and return the head's output (`ops.encoder.predict`)."""
        check_predict(self.config)
        states, lengths = self._encoded(ids, lengths, token_types)
        read = pooled_lengths(np.asarray(ids), lengths, head=self.config.head)
        return self.run(predict, states, read, self._weights, config=self.config)

    def _encoded(
        self, ids: np.ndarray, lengths: np.ndarray | None, token_types: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        ids, lengths, token_types = check_text(self.config, ids, lengths, token_types)
        if self.config.sound_shape is not None:
            ids = ids.astype(self.dtype)
        rotary, cache = self._rotary(self.config.positions(ids.shape[1])), None
        if isinstance(self.config, Encoder):
            batch, time = ids.shape
            cache = [kind.empty(batch, time, self.dtype) for kind in self.kinds]
        arguments = (ids, lengths, rotary, self._weights, token_types, cache)
        states = self.run(encode, *arguments, config=self.config)
        return states, lengths

    def step(
        self,
        tokens: np.ndarray,
        cache: Cache,
        lengths: np.ndarray | None = None,
        at: np.ndarray | None = None,
    ) -> tuple[np.ndarray, ArrayCache]:
        """Run the decoder on tokens [B, T]; return the logits at the positions `at`, and the extended
        cache.
        """
        s = self._step(tokens, cache, lengths, at)
        logits, layers = self.run(model, s.tokens, *s.inputs, s.encoder_kv, config=self.config)
        return logits, s.cache(layers)

    def step_with_hidden(
        self, tokens: np.ndarray, cache: Cache, at: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, ArrayCache]:
        """Run `step`, and also return the hidden states [B, T, D] of all tokens, for a module that drafts
        tokens.

        Returns (logits, hidden states, cache).
        """
        s = self._step(tokens, cache, None, at)
        logits, hidden, layers = self.run(model_with_hidden, s.tokens, *s.inputs, config=self.config)
        return logits, hidden, s.cache(layers)

    def cross_attention(self, tokens: np.ndarray, cache: Cache, chosen: Sequence[Head]) -> np.ndarray:
        """Return the weights [H, T, S] with which chosen heads of the decoder attend to the encoder's text or
        sound.

        The tokens [1, T] follow the tokens in the cache. The cache can't be used again.
        """
        s = self._step(tokens, cache, None, None)
        return self.run(cross_attention_maps, chosen, s.tokens, *s.inputs, s.encoder_kv, config=self.config)

    def start_mtp(self) -> ArrayCache:
        """Return an empty cache of one row for the model's MTP module; raise ConfigError for a model without
        one.
        """
        kinds = cache_kinds(check_mtp(self.config).mtp_decoder)
        layers = [kind.empty(1, 0, self.dtype) for kind in kinds]
        return ArrayCache(kinds, np.zeros(1, np.int64), 0, layers)

    def step_mtp(
        self, tokens: np.ndarray, hidden: np.ndarray, cache: Cache
    ) -> tuple[np.ndarray, np.ndarray, ArrayCache]:
        """Run the MTP module on pairs; return its logits [1, 1, N], its hidden states [1, T, D], and its
        cache.

        A pair is one of the tokens [1, T], and the model's hidden state of the token before it, from `hidden`
        [1, T, D]. The logits are the module's prediction after the last token.
        """
        config = check_mtp(self.config)
        s = self._step(tokens, cache, None, None)
        logits, own, layers = self.run(mtp_model, s.tokens, hidden, *s.inputs, config=config)
        return logits, own, s.cache(layers)

    def _step(
        self, tokens: np.ndarray, cache: Cache, lengths: np.ndarray | None, at: np.ndarray | None
    ) -> _Step:
        """Check the arguments of a step, and give each layer's cache room for exactly the step's tokens.

        There is no more room because `model` computes with all entries."""
        if not isinstance(cache, ArrayCache):
            raise foreign_cache_error(cache)
        past = cache.lengths
        tokens, lengths, at = check_step(self.config, tokens, past, lengths, at)
        need = int(past.max()) + tokens.shape[1]
        pairs = zip(cache.kinds, cache.take(), strict=True)
        layers = [kind.with_lengths(layer.grow(need), lengths) for kind, layer in pairs]
        inputs = (past, at, self._rotary(need), layers, self._weights)
        after = ArrayCache(cache.kinds, past + lengths, need, [], cache.encoder_kv)
        return _Step(tokens, inputs, cache.encoder_kv, after)


class _Step(NamedTuple):
    """One step: its tokens, the other arguments of `model`, and the cache after the step."""

    tokens: np.ndarray
    inputs: tuple[Any, ...]
    encoder_kv: list[EncoderKV] | None
    after: ArrayCache

    def cache(self, layers: Layers) -> ArrayCache:
        return replace(self.after, layers=layers)


def rotary_tables(count: int, dtype: np.dtype, *, config: Config) -> dict[Rope, Rotary]:
    """Return the cosines and sines of the first `count` positions for each rotary setting of the model."""
    tables = position_tables(np.arange(count), config=config)
    return {rope: Rotary(cos.astype(dtype), sin.astype(dtype)) for rope, (cos, sin) in tables.items()}


def dtype_of(params: Mapping[str, Any]) -> np.dtype:
    """Return the float type in which a model computes, read from a small parameter that every model has."""
    for stack in ("decoder", "encoder"):
        if "norm" in params.get(stack, {}):
            norm = params[stack]["norm"]
            return norm[next(iter(norm))].dtype
    table = params["embedding"]["table"]
    return table.scale.dtype if isinstance(table, Blocks) else table.dtype


class NumpyEngine(ArrayEngine):
    """The engine that runs the specification directly, with `ops.model` and `ops.encoder` in NumPy."""

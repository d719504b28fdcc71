"""The kinds of caches, in which a decoder keeps data about the tokens that it has read. Each layer has a
kind.

A kind names the arrays of its layer and says how they are allocated, copied, grown and truncated. Engines,
the graphs of a bundle and all code that counts bytes ask the kind. Only the functions in `ops` know what the
arrays hold. Each kind is defined beside its function in `ops`. This module defines only the kinds that keep
no tokens of their own.

    kind                arrays                       what is kept
    KeysValues          k, v [B, G, L, K]            every token
      with a window     k, v [B, G, S, K]            the latest tokens, at least those that the window sees
      kv "int8"         the same, 8-bit codes        as above; `ops.quantized_cache`, one scale a channel
      kv "int4"         k, v [B, G, L, K/2]          the same in 4 bits, two codes in a byte
      kv "float16"      the same, in float16         as above, whatever the model's floats are
    NothingKept         none                         a layer that reads the keys and values of an earlier one
    EncoderKeysValues   encoder_k, encoder_v         a whole text that an encoder has read: never grown,
                        [B, G, S, K]                 never truncated
    LinearSums          state [B, G, K, K]           what linear attention has summed up of all tokens
                        norm [B, G, K]
    LightningStates     state [B, H, K, K]           the same, fading, of lightning attention
    LstmStates          h, c [B, F]                  output and cell of an LSTM after all tokens
    ConvTail            conv [B, M, F]               the last M inputs of a short convolution
    MatrixStates        conv [B, M, F]               the same of a gated delta network or of Mamba 2, and
                        state [B, H, K, V]           what its heads have written of all tokens
    ChannelStates       conv [B, M, F]               the same of Mamba, and what its channels keep
                        state [B, F, K]
    RgLruStates         conv [B, M, F]               the same of a linear recurrent unit, and a number of
                        state [B, F]                 each channel
    TimeMixStates       shift [B, 1, D]              the last input of RWKV's time mixing, and three
                        numerator, denominator,      numbers of each channel
                        exponent [B, F]
    ChannelMixStates    shift [B, 1, D]              the last input of its channel mixing
    NgramStates         conv [B, M, X·D]             the last M inputs of a memory's convolution, and the
                        context [B, C]               last C tokens, as numbers
    HybridStates        k, v, conv, state            both, in a layer with attention and a state space
    Latents             latent [B, 1, L, C]          every token: its latent and its rotary key
      with an indexer   index [B, 1, L, P]           and its key for the indexer
    IndexedKeysValues   k, v [B, G, L, K]            every token, and its key for an indexer of blocks
                        index [B, 1, L, P]

**Conventions**: the first axis is the batch, so a row can be copied or run alone. Where an array has an
axis of tokens, entry 0 is the oldest token that is kept of the row. Entries past the kept tokens are
unspecified.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..config import Config, Layer, Window
from ..errors import LimitError
from ..ops.cache import KeysValues, KVCache
from ..ops.cache_kind import CHUNK, SLACK, Arrays, ArrayType, CacheArray, CacheKind, retained
from ..ops.shared_attention import SharedKV

__all__ = [
    "CHUNK", "SLACK", "ArrayType", "Arrays", "CacheArray", "CacheKind", "EncoderKeysValues", "Halved",
    "KeysValues", "NothingKept", "array_names", "cache_kinds", "check_lengths", "encoder_kinds", "floor",
    "layer_kind", "recurrent", "retained", "windows",
]  # fmt: skip


# Which floats are stored as float16: none, keys and values of a decoder's cache, or those of an encoder too.
Halved = Literal["", "cache", "all"]


@dataclass(frozen=True)
class NothingKept(CacheKind):
    """The kind of cache of a layer that stores nothing, because it reads an earlier layer's keys and values.

    The earlier layer's kind grows, truncates and selects these keys and values.
    """

    holds = SharedKV

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        return ()


@dataclass(frozen=True)
class EncoderKeysValues(CacheKind):
    """The kind of cache that stores the keys and values of an encoder's text, for a layer's
    cross-attention.
    """

    holds = KVCache

    kv_heads: int
    head_size: int
    dtype: ArrayType | None = None

    @property
    def tokens_axis(self) -> str:
        return "text"

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        axes = ("batch", self.kv_heads, self.tokens_axis, self.head_size)
        return CacheArray("encoder_k", axes, self.dtype), CacheArray("encoder_v", axes, self.dtype)

    def empty(self, batch: int, capacity: int, dtype: np.dtype) -> KVCache:
        raise LimitError(
            "the cache of an encoder's keys and values can't be empty: make the cache from the encoder's text"
        )


def cache_kinds(config: Config, *, windowed: bool = False, half: bool = False) -> tuple[CacheKind, ...]:
    """Return the kind of cache of each layer of a decoder. The tuple is empty for a model without a decoder.

    With `windowed`, a layer with a window keeps only the latest tokens. Otherwise all tokens are kept, and
    the mask hides tokens outside of the window. With `half`, float keys and values are stored as float16.
    """
    return tuple(layer_kind(layer, config.context, windowed=windowed, half=half) for layer in config.layers)


def layer_kind(layer: Layer, context: int, *, windowed: bool = False, half: bool = False) -> CacheKind:
    """Return the kind of cache of one decoder layer, for texts of up to `context` tokens."""
    mixer, attention = layer.attention, layer.attention.softmax_attention
    if attention is None:
        return mixer.cache_kind()
    if attention.kv_layer is not None:
        return NothingKept()
    window = None
    # A window that no text outgrows drops nothing.
    if windowed and isinstance(attention.mask, Window) and attention.mask.size < context:
        window = attention.mask.size
    kv = "float16" if half and attention.kv == "float" else attention.kv
    states = mixer if layer.beside is None else layer.beside.mixer
    if states is not attention:
        # Windows beside a state were never tried (`operator_limits.cache`).
        whole = KeysValues(attention.kv_heads, attention.head_size, kv)
        return states.cache_kind_beside(whole)
    return KeysValues(attention.kv_heads, attention.head_size, kv, window)


def encoder_kinds(config: Config, *, half: bool = False) -> tuple[CacheKind, ...]:
    """Return for each decoder layer the kind that caches the encoder's text. The tuple is empty without an
    encoder. With `half`, keys and values are stored as float16.
    """
    crosses = [layer.cross for layer in config.layers]
    dtype: ArrayType | None = "float16" if half else None
    return tuple(EncoderKeysValues(c.kv_heads, c.head_size, dtype) for c in crosses if c is not None)


def recurrent(kinds: Iterable[CacheKind]) -> bool:
    """Return whether any of these kinds of cache stores a recurrent state."""
    return any(kind.recurrent for kind in kinds)


def windows(kinds: Iterable[CacheKind]) -> tuple[int, ...]:
    """Return the different window sizes of these kinds of cache, in ascending order."""
    return tuple(sorted({kind.window for kind in kinds if kind.window is not None}))


def array_names(kinds: Sequence[CacheKind], suffix: str = "") -> list[str]:
    """Return the names of all cache arrays, layer by layer: k.0, v.0, k.1, …

    A suffix comes before the number: k_out.0, …
    """
    return [f"{array.name}{suffix}.{i}" for i, kind in enumerate(kinds) for array in kind.arrays]


def floor(kinds: Iterable[CacheKind], lengths: np.ndarray, dropped: dict[int, np.ndarray]) -> np.ndarray:
    """Return the smallest length above 0 to which each cache row can be truncated.

    `dropped[window][row]`: how many of the row's oldest tokens a layer with this window has discarded.
    """
    least = np.zeros_like(lengths)
    for kind in dict.fromkeys(kinds):
        least = np.maximum(least, kind.floor(lengths, _dropped(kind, lengths, dropped)))
    return least


def check_lengths(
    kinds: Iterable[CacheKind], past: np.ndarray, lengths: np.ndarray, dropped: dict[int, np.ndarray]
) -> np.ndarray:
    """Check the new lengths that are passed to a cache's `truncate`, and return them as int64.

    Raises LimitError unless each row's new length is 0, or is between the row's floor and its present
    length.
    """
    lengths = np.asarray(lengths, np.int64)
    if lengths.shape != past.shape or (lengths < 0).any() or (lengths > past).any():
        raise LimitError(
            f"a cache can only be cut to lengths from 0 to {past.tolist()} tokens, got {lengths.tolist()}"
        )
    for kind in dict.fromkeys(kinds):
        least = kind.floor(past, _dropped(kind, past, dropped))
        short = np.flatnonzero((lengths > 0) & (lengths < least))
        if len(short):
            row = int(short[0])
            raise LimitError(
                f"row {row} of the cache can be cut to {least[row]} tokens or more, or to none, got "
                f"{lengths[row]}: "
                f"{kind.why_not_shorter()}"
            )
    return lengths


def _dropped(kind: CacheKind, lengths: np.ndarray, dropped: dict[int, np.ndarray]) -> np.ndarray:
    return np.zeros_like(lengths) if kind.window is None else dropped[kind.window]

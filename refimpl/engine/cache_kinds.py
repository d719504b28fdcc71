"""What a decoder keeps of the tokens that it has read: a cache is a list of kinds, one a layer.

A kind names the arrays of its layer and says how they are allocated, copied, grown and truncated.
Engines, the graphs of a bundle and all that counts bytes ask the kind; only the mathematics in `ops`
knows what the arrays hold. A new kind is a class here, and a line in `layer_kind` that chooses it.

    kind                arrays                       what is kept
    KeysValues          k, v [B, G, L, K]            every token
      with a window     k, v [B, G, S, K]            the latest tokens, at least those that the window sees
      kv "int8"         the same, 8-bit codes        as above; `ops.quantized_cache`, one scale a channel
      kv "float16"      the same, in float16         as above, whatever the model's floats are
    NothingKept         none                         a layer that reads the keys and values of an earlier one
    EncoderKeysValues   encoder_k, encoder_v         a whole text that an encoder has read: never grown,
                        [B, G, S, K]                 never truncated
    LinearSums          state [B, G, K, K]           what linear attention has summed up of all tokens
                        norm [B, G, K]
    LstmStates          h, c [B, F]                  output and cell of an LSTM after all tokens
    ConvTail            conv [B, M, F]               the last M inputs of a short convolution
    MatrixStates        conv [B, M, F]               the same of a gated delta network or of Mamba 2, and
                        state [B, H, K, V]           what its heads have written of all tokens
    ChannelStates       conv [B, M, F]               the same of Mamba, and what its channels keep
                        state [B, F, K]
    HybridStates        k, v, conv, state            both, in a layer with a state space beside its attention
    Latents             latent [B, 1, L, C]          every token: its latent and its rotary key
      with an indexer   index [B, 1, L, P]           and its key for the indexer

**Conventions**: the first axis is the batch, so a row can be copied or run alone. Where an array has an
axis of tokens, the row's oldest kept token is entry 0, and what lies past the kept ones is unspecified.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ..config import (
    LSTM,
    Attention,
    Config,
    DisentangledAttention,
    GatedDelta,
    Indexer,
    KVFormat,
    LatentAttention,
    Layer,
    LinearAttention,
    LongformerAttention,
    LongT5Attention,
    Mamba,
    Mamba2,
    ShortConv,
    Window,
    XLNetAttention,
)
from ..errors import LimitError
from ..ops.cache import KVCache
from ..ops.latent_attention import LatentCache
from ..ops.linear_attention import LinearState
from ..ops.lstm import LstmState
from ..ops.mamba import ChannelState
from ..ops.mamba2 import HybridCache
from ..ops.shared_attention import SharedKV
from ..ops.short_conv import ConvState, MatrixState

# Tokens kept beside those that a window sees, so that refused drafts can be cut off again.
SLACK = 32
# Room for new tokens beside those that a window keeps, and so the most tokens of one run. More would only
# take longer: the fused operator scores every entry of the buffer.
CHUNK = 128

Arrays = Sequence[np.ndarray]
ArrayType = Literal["int8", "float16"]  # what arrays may hold beside the model's floats


def kept(window: int) -> int:
    """Tokens that stay when the arrays of a window are full: what the next token sees, and the slack."""
    return window - 1 + SLACK


@dataclass(frozen=True)
class CacheArray:
    """One array of a layer's cache. Axes are sizes, or names of sizes that vary: the batch's first.

    `dtype` None stands for the type of the model's floats.
    """

    name: str
    axes: tuple[str | int, ...]
    dtype: ArrayType | None = None


class CacheKind(ABC):
    """What one layer keeps. Subclasses are frozen dataclasses; layers that keep alike have equal kinds.

    `window` is the number of latest tokens that the layer can see, None where it sees all. `dropped` [B] in
    the methods below is how many tokens of each row were given up, the oldest ones; without a window none.
    """

    window: int | None = None
    holds: ClassVar[type]  # the cache of `ops` over the arrays
    recurrent = False  # whether a step changes arrays that have no axis of tokens, so that padding must not

    @property
    @abstractmethod
    def arrays(self) -> tuple[CacheArray, ...]:
        """The arrays, in the order in which `ops` takes and gives them."""

    @property
    def tokens_axis(self) -> str:
        """The name of the axis that counts tokens, in those arrays that have it."""
        return "capacity" if self.window is None else f"window{self.window}"

    @property
    def kept(self) -> int:
        """Tokens that stay when the arrays of a window are full."""
        assert self.window is not None
        return kept(self.window)

    @property
    def in_chunks(self) -> bool:
        """Whether ONNX Runtime reads a long text in several runs: it has no room for all, or codes are
        slow to read. (A prompt of 2048 tokens over codes takes 5.8 s in one run and 3.4 s in chunks.)"""
        return self.window is not None or any(array.dtype == "int8" for array in self.arrays)

    def with_lengths(self, cache: Any, lengths: Any) -> Any:
        """A cache of this kind for a step of whose tokens `lengths` [B] are real, where it must know that."""
        return cache

    def entries(self, capacity: int, chunk: int | None = None) -> int:
        """Tokens that the arrays have room for, in a cache for texts of `capacity` tokens, `chunk` a run."""
        return capacity if self.window is None else min(capacity, self.kept + (chunk or CHUNK))

    def shapes(self, batch: int, capacity: int, chunk: int | None = None) -> list[tuple[int, ...]]:
        """The shapes of the arrays."""
        sizes = {"batch": batch, self.tokens_axis: self.entries(capacity, chunk)}
        return [tuple(sizes[a] if isinstance(a, str) else a for a in array.axes) for array in self.arrays]

    def dtypes(self, floats: np.dtype) -> list[np.dtype]:
        """The types of the arrays, in a model of these floats."""
        return [floats if array.dtype is None else np.dtype(array.dtype) for array in self.arrays]

    def nbytes(self, capacity: int, float_bytes: int, chunk: int | None = None) -> int:
        """Bytes of one row."""
        widths = [float_bytes if a.dtype is None else np.dtype(a.dtype).itemsize for a in self.arrays]
        sizes = [math.prod(shape) for shape in self.shapes(1, capacity, chunk)]
        return sum(size * width for size, width in zip(sizes, widths, strict=True))

    def floor(self, lengths: np.ndarray, dropped: np.ndarray) -> np.ndarray:
        """The least length above 0 that each row can be truncated to: the next token finds all it sees."""
        if self.window is None:
            return np.zeros_like(lengths)
        return np.where(dropped > 0, dropped + self.window - 1, 0)

    def why_not_shorter(self) -> str:
        """Why a row can't be truncated below its floor, as the end of an error message."""
        return "what a window saw before was overwritten"

    def value(self, arrays: Sequence[Any], lengths: Any = None) -> Any:
        """The cache that `ops` takes over these arrays, NumPy's or another library's.

        For a step in which only the first `lengths` [B] tokens of each row are real; None for all.
        """
        return self.with_lengths(self.holds(*arrays), lengths)

    def empty(self, batch: int, capacity: int, dtype: np.dtype) -> Any:
        """An empty cache of the specification, all floats: codes too are kept there times their scale.

        `dtype` is that of the model's floats.
        """
        return self.value([np.zeros(shape, dtype) for shape in self.shapes(batch, capacity)])

    def copy_row(self, source: Arrays, row: int, target: Arrays, to: int, count: int) -> None:
        """Copy a row with its `count` tokens to row `to` of other arrays, or of the same."""
        for old, new, axis in zip(source, target, self._axes(), strict=True):
            part = _first(axis, count)
            new[(to, *part)] = old[(row, *part)]

    def replace_rows(self, arrays: Arrays, to: np.ndarray, rows: np.ndarray, count: int) -> None:
        """Copy the rows `rows` over the rows `to` of the same arrays, all at once, `count` tokens each."""
        for array, axis in zip(arrays, self._axes(), strict=True):
            part = _first(axis, count)
            # An index by arrays makes a copy first, so that a row may be read after it was overwritten.
            array[(to, *part)] = array[(rows, *part)]

    def keep_latest(self, arrays: Arrays, row: int, held: int) -> None:
        """Move the tokens that a window keeps to the front; `held` tokens are there."""
        count = self.kept
        for array, axis in zip(arrays, self._axes(), strict=True):
            if axis is not None:
                before = (slice(None),) * (axis - 1)
                array[(row, *before, slice(count))] = array[(row, *before, slice(held - count, held))]

    def _axes(self) -> list[int | None]:
        """Of each array the axis that counts tokens, None for one that has no such axis."""
        name = self.tokens_axis
        return [array.axes.index(name) if name in array.axes else None for array in self.arrays]


@dataclass(frozen=True)
class KeysValues(CacheKind):
    """Keys and values of each token, as the model's floats, in float16 or as 8-bit codes."""

    holds = KVCache

    kv_heads: int
    head_size: int
    kv: KVFormat | Literal["float16"] = "float"
    window: int | None = None

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        axes = ("batch", self.kv_heads, self.tokens_axis, self.head_size)
        dtype = None if self.kv == "float" else self.kv
        return CacheArray("k", axes, dtype), CacheArray("v", axes, dtype)

    def empty(self, batch: int, capacity: int, dtype: np.dtype) -> KVCache:
        return super().empty(batch, capacity, np.dtype(np.float16) if self.kv == "float16" else dtype)


@dataclass(frozen=True)
class NothingKept(CacheKind):
    """No array: an earlier layer's keys and values are read, and it is theirs to grow, cut or select."""

    holds = SharedKV

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        return ()


@dataclass(frozen=True)
class Latents(CacheKind):
    """One vector of `size` numbers a token, which all heads read, and one of `index` for an indexer."""

    holds = LatentCache

    size: int
    index: int | None = None

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        latent = CacheArray("latent", ("batch", 1, self.tokens_axis, self.size))
        if self.index is None:
            return (latent,)
        return latent, CacheArray("index", ("batch", 1, self.tokens_axis, self.index))


class RecurrentState(CacheKind):
    """What is computed of all tokens together, and doesn't grow with them. It can't forget the last ones."""

    recurrent = True

    def floor(self, lengths: np.ndarray, dropped: np.ndarray) -> np.ndarray:
        return lengths

    def why_not_shorter(self) -> str:
        return "the state of a recurrence can't go back"

    def with_lengths(self, cache: Any, lengths: Any) -> Any:
        return cache._replace(lengths=lengths)


@dataclass(frozen=True)
class LinearSums(RecurrentState):
    """The sums over keys and values that linear attention keeps."""

    holds = LinearState

    kv_heads: int
    head_size: int

    @property
    def in_chunks(self) -> bool:
        """A step takes the square of its tokens."""
        return True

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        axes = ("batch", self.kv_heads, self.head_size)
        return CacheArray("state", (*axes, self.head_size)), CacheArray("norm", axes)


@dataclass(frozen=True)
class LstmStates(RecurrentState):
    """The output and the cell of an LSTM after the last token."""

    holds = LstmState

    width: int

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        return CacheArray("h", ("batch", self.width)), CacheArray("c", ("batch", self.width))


@dataclass(frozen=True)
class ConvTail(RecurrentState):
    """The last inputs of a short convolution, `count` tokens."""

    holds = ConvState

    count: int
    width: int

    def why_not_shorter(self) -> str:
        return "a convolution keeps its last inputs alone"

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        return (CacheArray("conv", ("batch", self.count, self.width)),)


@dataclass(frozen=True)
class MatrixStates(RecurrentState):
    """The last inputs of a convolution, `count` tokens of `channels`, and a state of each head: of a gated
    delta network, or of Mamba 2."""

    holds = MatrixState

    count: int
    channels: int
    heads: int
    key_size: int
    value_size: int

    @property
    def in_chunks(self) -> bool:
        """Where a step is one chunk, it takes the square of its tokens."""
        return True

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        state = CacheArray("state", ("batch", self.heads, self.key_size, self.value_size))
        return CacheArray("conv", ("batch", self.count, self.channels)), state


@dataclass(frozen=True)
class ChannelStates(RecurrentState):
    """The last inputs of a convolution, `count` tokens of `channels`, and a state of each channel: of
    Mamba."""

    holds = ChannelState

    count: int
    channels: int
    state_size: int

    @property
    def in_chunks(self) -> bool:
        """A step has all tokens' states at once."""
        return True

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        state = CacheArray("state", ("batch", self.channels, self.state_size))
        return CacheArray("conv", ("batch", self.count, self.channels)), state


@dataclass(frozen=True)
class HybridStates(RecurrentState):
    """Keys and values of a layer's attention, and the states of what stands beside it."""

    holds = HybridCache

    attention: KeysValues
    states: MatrixStates

    @property
    def in_chunks(self) -> bool:
        return self.attention.in_chunks or self.states.in_chunks

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        return (*self.attention.arrays, *self.states.arrays)


@dataclass(frozen=True)
class EncoderKeysValues(CacheKind):
    """Keys and values that a layer's cross-attention reads, of a text that an encoder has read."""

    holds = KVCache

    kv_heads: int
    head_size: int

    @property
    def tokens_axis(self) -> str:
        return "text"

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        axes = ("batch", self.kv_heads, self.tokens_axis, self.head_size)
        return CacheArray("encoder_k", axes), CacheArray("encoder_v", axes)

    def empty(self, batch: int, capacity: int, dtype: np.dtype) -> KVCache:
        raise LimitError("what a decoder reads of an encoder is made of a text, it can't begin empty")


def cache_kinds(config: Config, *, windowed: bool = False, half: bool = False) -> tuple[CacheKind, ...]:
    """The kind of each layer of a decoder; none for a model without one.

    `windowed` caches keep of layers with a window the latest tokens alone; others keep all, and the mask
    hides what a window doesn't see. In `half` ones keys and values that would be floats are float16.
    """
    return tuple(layer_kind(layer, config.context, windowed=windowed, half=half) for layer in config.layers)


def layer_kind(layer: Layer, context: int, *, windowed: bool = False, half: bool = False) -> CacheKind:
    """The kind of one layer of a decoder for texts of up to `context` tokens."""
    match layer.attention:
        case LinearAttention(_, kv_heads, head_size):
            return LinearSums(kv_heads, head_size)
        case LSTM(width):
            return LstmStates(width)
        case ShortConv(width, length):
            return ConvTail(length - 1, width)
        case GatedDelta(heads, _, key_size, value_size, length) as mixer:
            return MatrixStates(length - 1, mixer.channels, heads, key_size, value_size)
        case Mamba(width, state_size, _, length):
            return ChannelStates(length - 1, width, state_size)
        case Mamba2() as mixer:
            return _states(mixer)
        case LatentAttention(rank=rank, key_dims=key_dims, indexer=indexer):
            return Latents(rank + key_dims, indexer.size if isinstance(indexer, Indexer) else None)
        case DisentangledAttention() | LongformerAttention() | LongT5Attention() | XLNetAttention():
            raise AssertionError("a Config's check keeps this attention for encoders")
        case Attention(kv_layer=int()):
            return NothingKept()
        case Attention() as attention:
            window = None
            # A window that no text outgrows drops nothing.
            if windowed and isinstance(attention.mask, Window) and attention.mask.size < context:
                window = attention.mask.size
            kv = "float16" if half and attention.kv == "float" else attention.kv
            if layer.beside is not None:
                # Windows beside a state were never tried (`operator_limits.cache`).
                whole = KeysValues(attention.kv_heads, attention.head_size, kv)
                return HybridStates(whole, _states(layer.beside.mixer))
            return KeysValues(attention.kv_heads, attention.head_size, kv, window)


def _states(mixer: Mamba2) -> MatrixStates:
    return MatrixStates(mixer.length - 1, mixer.channels, mixer.heads, mixer.state_size, mixer.head_size)


def encoder_kinds(config: Config) -> tuple[CacheKind, ...]:
    """What each layer of a decoder reads of an encoder's text; none where there is no encoder to read."""
    crosses = [layer.cross for layer in config.layers]
    return tuple(EncoderKeysValues(c.kv_heads, c.head_size) for c in crosses if c is not None)


def recurrent(kinds: Iterable[CacheKind]) -> bool:
    """Whether a layer keeps the state of a recurrence."""
    return any(kind.recurrent for kind in kinds)


def windows(kinds: Iterable[CacheKind]) -> tuple[int, ...]:
    """The windows of the kinds, each once, in ascending order."""
    return tuple(sorted({kind.window for kind in kinds if kind.window is not None}))


def array_names(kinds: Sequence[CacheKind], suffix: str = "") -> list[str]:
    """The names of all arrays, layer by layer: k.0, v.0, k.1, …; with a suffix k_out.0, …"""
    return [f"{array.name}{suffix}.{i}" for i, kind in enumerate(kinds) for array in kind.arrays]


def floor(kinds: Iterable[CacheKind], lengths: np.ndarray, dropped: dict[int, np.ndarray]) -> np.ndarray:
    """The least length above 0 that each row can be truncated to; `dropped` [B] by window."""
    least = np.zeros_like(lengths)
    for kind in dict.fromkeys(kinds):
        least = np.maximum(least, kind.floor(lengths, _dropped(kind, lengths, dropped)))
    return least


def check_lengths(
    kinds: Iterable[CacheKind], past: np.ndarray, lengths: np.ndarray, dropped: dict[int, np.ndarray]
) -> np.ndarray:
    """The argument of a cache's `truncate`, as int64.

    Raises LimitError unless each row gets 0, or a length from what every kind allows to its own.
    """
    lengths = np.asarray(lengths, np.int64)
    if lengths.shape != past.shape or (lengths < 0).any() or (lengths > past).any():
        raise LimitError(f"a cache of lengths {past.tolist()} can't be cut to {lengths.tolist()}")
    for kind in dict.fromkeys(kinds):
        least = kind.floor(past, _dropped(kind, past, dropped))
        short = np.flatnonzero((lengths > 0) & (lengths < least))
        if len(short):
            row = int(short[0])
            raise LimitError(
                f"row {row} can be cut to {least[row]} tokens or more, or to none, got {lengths[row]}: "
                f"{kind.why_not_shorter()}"
            )
    return lengths


def _dropped(kind: CacheKind, lengths: np.ndarray, dropped: dict[int, np.ndarray]) -> np.ndarray:
    return np.zeros_like(lengths) if kind.window is None else dropped[kind.window]


def _first(axis: int | None, count: int) -> tuple[slice, ...]:
    """The first tokens of a row, as an index behind that of the row."""
    return () if axis is None else (*(slice(None),) * (axis - 1), slice(count))

"""A memory of n-grams: the last tokens of a text, taken together, name rows of a large table, and a gate
decides how much of these rows is added to the residual streams (Qwen4-Exp, Qwen 2026: per-layer embedding).

Names and phrases are sequences of tokens that occur together. To recognize them, a model spends its first
layers on what a table could look up. A table of all sequences of n tokens would have N^n rows. So a
sequence is hashed to one of a few million rows, by several heads with numbers of rows of their own: two
sequences may share a row of one head, but hardly ever the rows of all heads (Cheng et al. 2026, Conditional
Memory via Scalable Lookup, Engram). With the multipliers a_0, a_1, … the row of head h for the n-gram that
ends at token t is

    id      =  a_0 · token(t)  xor  a_1 · token(t − 1)  xor  …  xor  a_{n−1} · token(t − n + 1)
    row_h   =  id mod p_h + Σ_{g < h} p_g                           p_h: the number of head h's rows, a prime

An n-gram doesn't reach past the end of an earlier text: from the end token on, every earlier token counts
as the end token. The same is true of the tokens before a text. The layer then computes

    tokens ── rows ── e ──┬─ w_key ── norm ── k_i ──┐
                          └─ w_value ── v ──────────┼── v_i = σ(±√|k_i · q_i / √D|) v ──┬──────────── + ── y_i
    x_i ── norm ── q_i ─────────────────────────────┘                                   └─ norm, conv ┘

for each stream i. The sign is that of the product. The convolution reads every n-th token, where n is the
longest n-gram. A layer keeps the convolution's last inputs, and the last n − 1 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypedDict

import numpy as np

from ..config import TokenMixer
from ..config.bounds import LIMITS, need, within
from ..config.record import bounded
from .activation import sigmoid, silu
from .arrays import as_type, concatenate, join_last, row_sum, split_last, sqrt, where, whole
from .cache_kind import CacheArray, RecurrentState, same_state, state_nbytes, state_rows
from .dispatch import op
from .embedding import embedding
from .linear import linear
from .norm import rms_norm
from .quant import Blocks
from .short_conv import begun, last_inputs

if TYPE_CHECKING:
    from ..axes import Array, Float, Index

PART = 2**31  # of a factor's two digits
LEAST = 1e-6  # of the size of a product before the square root


class NgramMemoryWeights(TypedDict):
    """The parameters of a memory of n-grams for X streams: the table, the maps of H of its rows to values and
    to the keys of streams, the norms, and the kernel of the convolution."""

    table: Float[Array, "N F"]
    w_key: Float[Array, "H*F X*D"] | Blocks
    w_value: Float[Array, "H*F D"] | Blocks
    key_norm: Float[Array, " X*D"]
    query_norm: Float[Array, " X*D"]
    conv_norm: Float[Array, " X*D"]
    memory_conv: Float[Array, "A+1 X*D"]


class NgramState(NamedTuple):
    """The state of a memory of n-grams: the convolution's last inputs, and the last tokens, as numbers.

    `lengths` [B] is set only in a step with rows padded on the right. It says how many tokens of each row are
    real.
    """

    tail: Float[Array, "B M X*D"]
    tokens: Float[Array, "B C"]
    lengths: Index[Array, " B", "< T+1"] | None = None

    nbytes, select, grow = state_nbytes, state_rows, same_state


@dataclass(frozen=True)
class NgramStates(RecurrentState):
    """The kind of cache of a memory of n-grams: the last `count` inputs of a convolution over `channels`, and
    the last `context` tokens.
    """

    holds = NgramState
    adds_up = costly_runs = False

    count: int
    channels: int
    context: int

    def why_not_shorter(self) -> str:
        return "a memory of n-grams stores only its last tokens"

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        context = CacheArray("context", ("batch", self.context))
        return CacheArray("conv", ("batch", self.count, self.channels)), context


class NgramMemory(TokenMixer):
    """The settings of a memory of n-grams (`ops.ngram_memory`), which reads and changes all streams.

    For each length of n-grams from 2 to the length of `multipliers` there are equally many heads. `primes`
    are the numbers of rows of all heads, the shortest n-grams first. The table has `rows` rows of `width`
    numbers. `end` is the token that ends a text. `length` is that of the convolution. `streams` and
    `inputs` are the number of streams and the width of the model. `eps` belongs to all norms.
    """

    multipliers: tuple[int, ...]
    primes: tuple[int, ...]
    rows: int = bounded("ngrams", "rows of the table of n-grams")
    width: int = bounded("width", "width of the table of n-grams")
    end: int
    streams: int = bounded("streams")
    inputs: int = bounded("width", "width of a stream")
    length: int = bounded("kernel", "length of the convolution", least=2, default=4)
    eps: float = 1e-6

    weights = NgramMemoryWeights
    title, place, keeps = "a memory of n-grams", "decoder", "state"
    reads_streams = True

    @property
    def offsets(self) -> tuple[int, ...]:
        """The first row of each head."""
        return (0, *accumulate(self.primes))[:-1]

    @property
    def factor_parts(self) -> tuple[tuple[int, int], ...]:
        """The lower 31 bits of each multiplier, and the bits above."""
        return tuple((factor % PART, factor // PART) for factor in self.multipliers)

    @property
    def heads_of_each(self) -> int:
        """The number of heads for each length of n-grams."""
        return len(self.primes) // (len(self.multipliers) - 1)

    def check(self, at: str) -> None:
        super().check(at)
        need(not self.placed_norms, f"{at}{self.title} can't have norms around it")
        within(at + "length of the longest n-gram", len(self.multipliers), LIMITS["kernel"], 2)
        lengths, heads = len(self.multipliers) - 1, len(self.primes)
        within(at + "heads of n-grams", heads, LIMITS["heads"])
        need(
            heads % lengths == 0,
            f"{at}the number of primes must be a multiple of the {lengths} lengths of n-grams, got {heads}",
        )
        for prime in self.primes:
            within(at + "rows of a head", prime, LIMITS["ngrams"])
        total = sum(self.primes)
        need(total <= self.rows, f"{at}rows must be {total} or more, the sum of the heads', got {self.rows}")

    @classmethod
    def check_together(cls, name: str, mixers: Sequence[Self], width: int, vocabulary: int) -> None:
        for one in mixers:
            fits = one.inputs == width
            need(fits, f"{name}: inputs of {cls.title} must be the model's width ({width}), got {one.inputs}")
            within(f"{name}: end token of {cls.title}", one.end, vocabulary - 1, 0)
            for multiplier in one.multipliers:
                within(f"{name}: multiplier of {cls.title}", multiplier, (2**63 - 1) // vocabulary)

    def sizes(self, width: int) -> Mapping[str, float]:
        return {
            "N": self.rows,
            "F": self.width,
            "H": len(self.primes),
            "X": self.streams,
            "A": self.length - 1,
        }

    def cache_kind(self) -> NgramStates:
        reach = len(self.multipliers)
        return NgramStates((self.length - 1) * reach, self.streams * self.inputs, reach - 1)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, NgramState, Array | None]:
        return *ngram_memory(x, cache, past, weights, positions.tokens, settings=self), chosen

    def float16_limit(self) -> str | None:
        return "the last tokens are kept as numbers, for which float16 has too few bits"

    def describe(self) -> str:
        kinds = f"{len(self.multipliers)} tokens or fewer, {len(self.primes)} rows of {self.width}"
        return f"memory of n-grams of {kinds}, convolution over {self.length} tokens"

    def epsilons(self) -> dict[str, float]:
        return dict.fromkeys(("key_norm", "query_norm", "conv_norm"), self.eps)

    def numbers(self) -> Iterator[float]:
        yield from (self.inputs**-0.5, LEAST, 0.5)

    def integers(self) -> Iterator[int]:
        yield from (*self.offsets, PART)
        for parts in self.factor_parts:
            yield from parts


@op
def ngram_rows(context: Array, tokens: Array, *, settings: NgramMemory) -> Array:
    """Return the rows [B, T, H] of the table for the n-grams that end at each of the tokens [B, T].

    `context` [B, n − 1] are the tokens before them.
    """
    (b, t), reach, factors = tokens.shape, context.shape[1], np.array(settings.multipliers)
    history = np.concatenate([context, tokens], 1).astype(np.int64)
    mixed, rows, ended = history[:, reach:] * factors[0], [], np.zeros((b, t), bool)
    for back in range(1, reach + 1):
        earlier = np.where(ended, settings.end, history[:, reach - back : reach - back + t])
        ended = earlier == settings.end
        mixed = mixed ^ (earlier * factors[back])
        for head in range((back - 1) * settings.heads_of_each, back * settings.heads_of_each):
            rows.append(mixed % settings.primes[head] + settings.offsets[head])
    return np.stack(rows, axis=-1)


@op
def ngram_memory(
    x: Float[Array, "B T X D"],
    cache: NgramState,
    past: Index[Array, " B", "< O+1"],
    weights: NgramMemoryWeights,
    tokens: Array,
    *,
    settings: NgramMemory,
) -> tuple[Float[Array, "B T X D"], NgramState]:
    """Compute what a memory of n-grams adds to the streams x, for the same `tokens` [B, T]. Returns it and
    the new state.

    Conventions: a row with no token before the call begins after an end token, whatever its cache holds.
    The size of a product is at least 1e-6 before the square root. Padding changes no state; outputs at
    padding are unspecified.
    """
    a, width = settings, settings.inputs
    kept = as_type(whole(cache.tokens + 0.5), tokens.dtype)
    context = where((past > 0)[:, None], kept, a.end)
    rows = join_last(embedding(ngram_rows(context, tokens, settings=a), weights["table"]))
    key = _normed(split_last(linear(rows, weights["w_key"]), width), weights["key_norm"], a)
    product = row_sum(key * _normed(x, weights["query_norm"], a)) * width**-0.5
    size = sqrt(abs(product).clip(min=LEAST))
    gate = sigmoid(where(product > 0, size, where(product < 0, -size, product)))
    value = gate * linear(rows, weights["w_value"])[:, :, None]
    inputs, tail = join_last(_normed(value, weights["conv_norm"], a)), begun(cache.tail, past)
    near = silu(_every(inputs, weights["memory_conv"], tail, len(a.multipliers)))
    latest = last_inputs(context[..., None], tokens[..., None], cache.lengths).squeeze(2)
    state = NgramState(last_inputs(tail, inputs, cache.lengths), as_type(latest, cache.tokens.dtype))
    return value + split_last(near, width), state


def _normed(x: Array, weight: Array, settings: NgramMemory) -> Array:
    """Normalize each stream of x [B, T, X, D] alone, and multiply by its weights."""
    return rms_norm(x, eps=settings.eps) * split_last(weight, settings.inputs)


def _every(x: Array, kernel: Array, tail: Array, step: int) -> Array:
    """Compute a causal convolution of each channel that reads every `step`-th token, the last inputs of the
    kernel's last row being the tokens themselves. The inputs before x are `tail`.
    """
    tokens, inputs = x.shape[1], concatenate((tail, x), 1)
    y = inputs[:, :tokens] * kernel[0]
    for j in range(1, kernel.shape[0]):
        y = y + inputs[:, j * step : j * step + tokens] * kernel[j]
    return y

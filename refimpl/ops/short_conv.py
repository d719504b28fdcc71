"""Short convolutions: each channel of a token is mixed with the same channel of a few earlier tokens,
between two gates.

A map makes three vectors from each token's vector: a gate b, a gate c and a value v. The convolution reads
b ⊙ v. Its result is multiplied by c, and then mapped back to the model's width (LFM2, Liquid AI 2025):

    token            0      1      2      3                length 3, in one channel
    b ⊙ v            p0     p1     p2     p3
    convolved        k2 p0  k1 p0  k0 p0  k0 p1
                            + k2 p1  + k1 p1  + k1 p2
                                     + k2 p2  + k2 p3

The gates depend on the tokens and the kernel doesn't, so a layer costs the same for each token. For a text
of any length, a layer stores only the last length − 1 products. In this example these are two vectors in
all, while attention stores two vectors for each token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from ..config import TokenMixer
from ..config.record import bounded
from .arrays import concatenate, filled, following, padded, split, tokens_at
from .cache_kind import CacheArray, RecurrentState, same_state, state_nbytes, state_rows
from .dispatch import op
from .linear import linear
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class ShortConvWeights(TypedDict):
    """The parameters of a short convolution: the input and output projections, the kernel, and their
    biases."""

    wi: Float[Array, "D 3*F"] | Blocks
    conv: Float[Array, "A+1 F"]
    wo: Float[Array, "F D"] | Blocks
    bi: NotRequired[Float[Array, " 3*F"]]
    conv_bias: NotRequired[Float[Array, " F"]]
    bo: NotRequired[Float[Array, " D"]]


class ConvState(NamedTuple):
    """The state of a short convolution: its last A inputs, oldest first.

    `lengths` [B] is set only in a step with rows padded on the right. It says how many tokens of each row
    are real.
    """

    tail: Float[Array, "B A F"]
    lengths: Index[Array, " B", "< T+1"] | None = None

    nbytes, select, grow = state_nbytes, state_rows, same_state


class MatrixState(NamedTuple):
    """The state of a layer with a convolution and a matrix for each head.

    The state consists of the convolution's last A inputs and of the matrices.

    `lengths` [B] is set only in a step with rows padded on the right. It says how many tokens of each row
    are real.
    """

    tail: Float[Array, "B A 2*G*K+H*V"]
    state: Float[Array, "B H K V"]
    lengths: Index[Array, " B", "< T+1"] | None = None

    nbytes, select, grow = state_nbytes, state_rows, same_state


@dataclass(frozen=True)
class ConvTail(RecurrentState):
    """The kind of cache of a short convolution: its last `count` inputs."""

    holds = ConvState
    adds_up = costly_runs = False

    count: int
    width: int

    def why_not_shorter(self) -> str:
        return "a convolution stores only its last inputs"

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        return (CacheArray("conv", ("batch", self.count, self.width)),)


@dataclass(frozen=True)
class MatrixStates(RecurrentState):
    """The kind of cache of a gated delta network or of Mamba 2: the last `count` inputs of a convolution
    over `channels`, and a matrix for each head."""

    holds = MatrixState

    count: int
    channels: int
    heads: int
    key_size: int
    value_size: int

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        state = CacheArray("state", ("batch", self.heads, self.key_size, self.value_size))
        return CacheArray("conv", ("batch", self.count, self.channels)), state


class ShortConv(TokenMixer):
    """The settings of a short convolution over the `length` latest tokens, in `width` channels between
    gates (`ops.short_conv`).

    `bias` says whether the convolution and both projections have biases.
    """

    width: int = bounded("width", "width of the convolution")
    length: int = bounded("kernel", "length of the convolution", least=2, default=3)
    bias: bool = False

    weights = ShortConvWeights
    title, place, keeps = "a short convolution", "decoder", "state"

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"F": self.width, "A": self.length - 1}

    def leaves(self) -> Sequence[str]:
        return ("bi", "conv_bias", "bo") if self.bias else ()

    def cache_kind(self) -> ConvTail:
        return ConvTail(self.length - 1, self.width)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, ConvState, Array | None]:
        return *short_conv(x, cache, past, weights), chosen

    def readers(self) -> tuple[str, ...]:
        return ("wi",)

    def describe(self) -> str:
        return f"convolution over {self.length} tokens in {self.width} channels"


@op
def causal_conv(
    x: Float[Array, "B T F"],
    kernel: Float[Array, "A+1 F"],
    tail: Float[Array, "B A F"] | None = None,
    bias: Float[Array, " F"] | None = None,
) -> Float[Array, "B T F"]:
    """Compute a causal convolution of each channel by itself: y[t] = bias + Σ_j kernel[j] ⊙ x[t − A + j].

    Conventions: the inputs before the call are `tail`, oldest first; without `tail`, they are zeros. The
    last row of the kernel multiplies the token itself, as in torch's Conv1d with A zeros on the left, and
    in causal_conv1d.
    """
    tokens, length = x.shape[1], kernel.shape[0]
    inputs = padded(x, length - 1, 0) if tail is None else concatenate((tail, x), 1)
    y = inputs[:, :tokens] * kernel[0]
    for j in range(1, length):
        y = y + inputs[:, j : j + tokens] * kernel[j]
    return y if bias is None else y + bias


@op
def short_conv(
    x: Float[Array, "B T D"],
    cache: ConvState,
    past: Index[Array, " B", "< O+1"],
    weights: ShortConvWeights,
) -> tuple[Float[Array, "B T D"], ConvState]:
    """Compute the sublayer of a short convolution: (b, c, v) = x · wi; y = (c ⊙ causal_conv(b ⊙ v)) · wo.

    Conventions: a row with no token before the call begins at zero, whatever its cache contains. Padding
    changes no state; outputs at padding are unspecified.
    """
    made = linear(x, weights["wi"], weights.get("bi"))
    b, c, v = split(made, (made.shape[-1] // 3,) * 3)
    inputs = b * v
    tail = begun(cache.tail, past)
    y = c * causal_conv(inputs, weights["conv"], tail, weights.get("conv_bias"))
    state = ConvState(last_inputs(tail, inputs, cache.lengths))
    return linear(y, weights["wo"], weights.get("bo")), state


@op
def last_inputs(tail: Array, inputs: Array, lengths: Array | None) -> Array:
    """Return the last A inputs of each row after a call. The row's inputs are `tail` [B, A, F], followed
    by the first `lengths` [B] of the inputs [B, T, F]. If `lengths` is None, all inputs are real."""
    count = filled(inputs.shape[0], inputs.shape[1], inputs) if lengths is None else lengths
    return tokens_at(concatenate((tail, inputs), 1), following(count, tail.shape[1]))


@op
def begun(kept: Array, past: Array) -> Array:
    """Return the content [B, …] of a cache, but zeros in rows that have no token before the call."""
    there = (past > 0).reshape(-1, *(1,) * (kept.ndim - 1))
    return np.where(there, kept, 0).astype(kept.dtype)

"""Long short-term memory (LSTM): a recurrence with gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, NotRequired, TypedDict

import numpy as np

from ..config import TokenMixer
from ..config.record import bounded
from .activation import sigmoid, tanh
from .arrays import concatenate, split, where
from .cache_kind import CacheArray, RecurrentState, same_state, state_nbytes, state_rows
from .dispatch import op
from .linear import linear
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float, Index


class LstmWeights(TypedDict):
    """The parameters of an LSTM in one direction: the weights for the input x, the weights for the
    previous output h, the bias, and the peephole weights.
    """

    wx: Float[Array, "D 4*F"]
    wh: Float[Array, "F 4*F"]
    bias: NotRequired[Float[Array, " 4*F"]]
    peephole: NotRequired[Float[Array, " 3*F"]]


class LstmLayerWeights(TypedDict):
    """The parameters of an LSTM sublayer: the gates' parameters, and the projection to the model's width."""

    wx: Float[Array, "D 4*F"]
    wh: Float[Array, "F 4*F"]
    wo: Float[Array, "F D"] | Blocks
    bias: NotRequired[Float[Array, " 4*F"]]
    bo: NotRequired[Float[Array, " D"]]


class LstmState(NamedTuple):
    """The state of an LSTM layer: its output h and its cell c. Its size is the same for any text.

    `lengths` [B] is set only in a step with rows padded on the right. It says how many tokens of each row
    are real.
    """

    h: Float[Array, "B F"]
    c: Float[Array, "B F"]
    lengths: Index[Array, " B", "< T+1"] | None = None

    nbytes, select, grow = state_nbytes, state_rows, same_state


@dataclass(frozen=True)
class LstmStates(RecurrentState):
    """The kind of cache of an LSTM: its output and its cell after the last token."""

    holds = LstmState
    costly_runs = False

    width: int

    @property
    def arrays(self) -> tuple[CacheArray, ...]:
        return CacheArray("h", ("batch", self.width)), CacheArray("c", ("batch", self.width))


class LSTM(TokenMixer):
    """The settings of a long short-term memory of `width` units, with a projection to the model's width
    (`ops.lstm`).

    `bias` says whether the gates have biases.
    """

    width: int = bounded("width", "width of the LSTM")
    bias: bool = True
    out_bias: bool = False

    weights = LstmLayerWeights
    title, place, keeps = "an LSTM", "decoder", "state"

    def sizes(self, width: int) -> Mapping[str, float]:
        return {"F": self.width}

    def leaves(self) -> Sequence[str]:
        return *(("bias",) if self.bias else ()), *(("bo",) if self.out_bias else ())

    def cache_kind(self) -> LstmStates:
        return LstmStates(self.width)

    def mix(
        self, x: Array, cache: Any, past: Array, weights: Any, positions: Any, chosen: Array | None
    ) -> tuple[Array, LstmState, Array | None]:
        return *lstm_layer(x, cache, past, weights), chosen

    def describe(self) -> str:
        return f"LSTM of {self.width} units"


@op
def lstm_cell(
    x: Float[Array, "B D"],
    h: Float[Array, "B F"],
    c: Float[Array, "B F"],
    weights: LstmWeights,
) -> tuple[Float[Array, "B F"], Float[Array, "B F"]]:
    """Compute one step of an LSTM: c' = f ⊙ c + i ⊙ g and h' = o ⊙ tanh(c'). The gates i, f, o and the new
    content g are computed from x and h:

        i = σ(x·Wi + h·Ui + bi + pi ⊙ c)    f = σ(x·Wf + h·Uf + bf + pf ⊙ c)
        g = tanh(x·Wg + h·Ug + bg)          o = σ(x·Wo + h·Uo + bo + po ⊙ c')

    Hochreiter & Schmidhuber 1997; forget gate Gers et al. 2000; peepholes Gers et al. 2002. Conventions:
    the columns of `wx`, `wh` and `bias` are in the order i, f, g, o, as in torch and Keras (ONNX has i, o,
    f, g). The columns of `peephole` are in the order i, f, o. There is one bias, the sum of the two biases
    that torch and ONNX have. The output gate uses the new c, as in ONNX.
    """
    gates = x @ weights["wx"] + h @ weights["wh"]
    if "bias" in weights:
        gates = gates + weights["bias"]
    width = c.shape[-1]
    i, f, g, o = split(gates, (width,) * 4)
    pi, pf, po = 0, 0, 0
    if "peephole" in weights:
        pi, pf, po = split(weights["peephole"], (width,) * 3)
    new_c = sigmoid(f + pf * c) * c + sigmoid(i + pi * c) * tanh(g)
    return sigmoid(o + po * new_c) * tanh(new_c), new_c


@op
def lstm(
    x: Float[Array, "B T D"],
    weights: LstmWeights,
    h0: Float[Array, "B F"] | None = None,
    c0: Float[Array, "B F"] | None = None,
    lengths: Index[Array, " B", "< T+1"] | None = None,
    *,
    reverse: bool = False,
) -> tuple[Float[Array, "B T F"], Float[Array, "B F"], Float[Array, "B F"]]:
    """Apply `lstm_cell` to the tokens in order. Returns all h [B, T, F], and the h and c after the last
    token.

    With `reverse` the tokens are read from the last to the first; each h is at the place of its own token.
    Conventions: without `h0` and `c0`, h and c start at zero. Token t of row b is real if t < lengths[b].
    Padding is on the right, changes no state, and its output is 0, as in torch's packed sequences and
    ONNX's sequence_lens. So a reversed row begins with its own last token. A row of length 0 returns its
    initial state, so that any split of the tokens over several calls equals one call. (ONNX Runtime
    returns zeros.)
    """
    width = weights["wh"].shape[0]
    h = np.zeros((x.shape[0], width), x.dtype) if h0 is None else h0
    c = np.zeros_like(h) if c0 is None else c0
    y = np.zeros((*x.shape[:2], width), x.dtype)
    steps = range(x.shape[1])
    for t in reversed(steps) if reverse else steps:
        real = np.full((x.shape[0], 1), True) if lengths is None else (t < lengths)[:, None]
        new_h, new_c = lstm_cell(x[:, t], h, c, weights)
        h, c = np.where(real, new_h, h), np.where(real, new_c, c)
        y[:, t] = np.where(real, h, 0)
    return y, h, c


@op
def bidirectional_lstm(
    x: Float[Array, "B T D"],
    forward: LstmWeights,
    backward: LstmWeights,
    h0: Float[Array, "2 B F"] | None = None,
    c0: Float[Array, "2 B F"] | None = None,
    lengths: Index[Array, " B", "< T+1"] | None = None,
) -> tuple[Float[Array, "B T 2*F"], Float[Array, "2 B F"], Float[Array, "2 B F"]]:
    """Compute two LSTMs side by side, one forward and one backward in time: y[b,t] = (forward, backward).

    Conventions: the first axis of the states is the direction, forward first, as in torch and ONNX.
    """
    h, c = (None, None) if h0 is None else h0, (None, None) if c0 is None else c0
    ahead = lstm(x, forward, h[0], c[0], lengths)
    back = lstm(x, backward, h[1], c[1], lengths, reverse=True)
    h, c = (concatenate((ahead[i][None], back[i][None]), 0) for i in (1, 2))
    return concatenate((ahead[0], back[0]), -1), h, c


@op
def lstm_layer(
    x: Float[Array, "B T D"],
    cache: LstmState,
    past: Index[Array, " B", "< O+1"],
    weights: LstmLayerWeights,
) -> tuple[Float[Array, "B T D"], LstmState]:
    """Compute the sublayer of an LSTM: continue `lstm` from the cache, and map the result back to the
    model's width.

    Conventions: a row with no token before the call begins at zero, whatever its cache contains. Padding
    changes no state; outputs at padding are unspecified.
    """
    there = (past > 0)[:, None]
    h, c = where(there, cache.h, 0), where(there, cache.c, 0)
    gates: LstmWeights = {"wx": weights["wx"], "wh": weights["wh"]}
    if "bias" in weights:
        gates["bias"] = weights["bias"]
    y, h, c = lstm(x, gates, h, c, cache.lengths)
    return linear(y, weights["wo"], weights.get("bo")), LstmState(h, c)

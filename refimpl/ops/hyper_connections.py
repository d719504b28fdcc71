"""Hyper-connections: each token has several vectors, and each sublayer chooses what it reads of all of them
and how much it adds to each.

In a usual residual stream, a sublayer reads the sum of everything that was added before it, and its output is
added to this sum. With several streams (Zhu et al. 2024, Hyper-Connections, arXiv 2409.19606, §2), a sublayer
f reads a mixture of the streams, and adds its output to each stream with a weight of its own:

    x₀ ──┬───────────────────────────── + o₀ y ──
    x₁ ──┼──┬────────────────────────── + o₁ y ──      m = mean over i of g_i ⊙ norm(x_i)
    x₂ ──┼──┼──┬─────────────────────── + o₂ y ──      y = f(m)
         └──┴──┴── norm, g ── m ── f ── y

Here (Qwen4-Exp, Qwen 2026) the token determines both: the gates g, one for each number of each stream, are
made through a narrow map, and the openings o, one for each stream, are between 0 and 2. After the last
layer, the head reads one more mixture. There is no other norm before a sublayer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

from ..config import HyperConnections
from .activation import sigmoid, silu
from .arrays import join_last, repeated, split_last
from .dispatch import op
from .linear import linear
from .norm import rms_norm
from .quant import Blocks

if TYPE_CHECKING:
    from ..axes import Array, Float


class HyperWeights(TypedDict):
    """The parameters of a mixture of X streams: a norm of each stream, the two maps that make the gates, and
    the map that makes the openings.

    The mixture after the last layer has no openings.
    """

    norm: Float[Array, " X*D"]
    down: Float[Array, "X*D F"] | Blocks
    up: Float[Array, "F X*D"] | Blocks
    open: NotRequired[Float[Array, "X*D X"]]


@op
def mixture_of_streams(
    normed: Float[Array, "B T X*D"], weights: HyperWeights, *, streams: int
) -> Float[Array, "B T D"]:
    """Compute what a sublayer reads, from the X normalized streams n side by side: Σ_i g_i ⊙ n_i / X, with
    the gates g = σ(silu(n down / X) up).
    """
    share = 1 / streams
    gates = sigmoid(linear(silu(linear(normed, weights["down"]) * share), weights["up"]))
    read = split_last(gates * normed, normed.shape[-1] // streams)
    total = read[:, :, 0]
    for i in range(1, streams):
        total = total + read[:, :, i]
    return total * share


@op
def stream_openings(normed: Float[Array, "B T X*D"], weight: Float[Array, "X*D X"]) -> Float[Array, "B T X"]:
    """Compute the weights with which a sublayer's output is added to the X streams, from the normalized
    streams n side by side: 2 σ(n weight / X).
    """
    return 2 * sigmoid(linear(normed, weight) * (1 / weight.shape[1]))


def mix_streams(x: Array, weights: HyperWeights, *, settings: HyperConnections) -> tuple[Array, Array | None]:
    """Return what a sublayer reads [B, T, D] of the streams x [B, T, X, D], and the weights [B, T, X] with
    which its output is added to them.

    Each stream is normalized alone, and has weights of its own. Without `open` the second result is None.
    """
    normed = join_last(rms_norm(x, eps=settings.norm.eps)) * weights["norm"]
    openings = stream_openings(normed, weights["open"]) if "open" in weights else None
    return mixture_of_streams(normed, weights, streams=settings.streams), openings


def to_streams(y: Array, openings: Array | None) -> Array:
    """Return what is added to each stream for a sublayer's output y [B, T, D]: o_i y. Without openings there
    is one stream, and y itself is returned.
    """
    return y if openings is None else y[:, :, None] * openings[..., None]


@op
def enter_copies(x: Array, *, streams: int) -> Array:
    """Return the streams [B, T, X, D] before the first layer: each is the embedding x [B, T, D]."""
    return repeated(x[:, :, None], streams, 2)


@op
def join_streams(x: Array, weights: HyperWeights, *, settings: HyperConnections) -> Array:
    """Return the mixture [B, T, D] of the streams x [B, T, X, D] after the last layer."""
    mixture, _ = mix_streams(x, weights, settings=settings)
    return mixture

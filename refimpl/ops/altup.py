"""Alternating updates: several vectors for each token, of which each layer computes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from ..config import AltUp
from .activation import tanh
from .arrays import concatenate, split_last, sqrt
from .dispatch import op
from .linear import linear
from .norm import rms_norm
from .quant import Blocks

if TYPE_CHECKING:
    from typing import Any as Array

    from jaxtyping import Float

__all__ = [
    "AltUpWeights",
    "StreamWeights",
    "altup_correct",
    "altup_predict",
    "enter_streams",
    "leave_streams",
    "modalities",
    "same_magnitude",
]


class AltUpWeights(TypedDict):
    """The leaves by which a layer predicts and corrects its X streams: coefficients, made by a router."""

    router: Float[Array, "D X"]
    norm: Float[Array, " D"]
    predict: Float[Array, "X X*X"]
    correct: Float[Array, "X X"]


class StreamWeights(TypedDict):
    """The maps of one stream but the first: from the embedding to it, and from it to the output."""

    enter: Float[Array, "D D"] | Blocks
    leave: Float[Array, "D D"] | Blocks


@op
def modalities(x: Float[Array, "B T D"], weights: AltUpWeights, *, eps: float) -> Float[Array, "B T X"]:
    """m = tanh(rms_norm(x) / D · router): X numbers between −1 and 1, of which coefficients are made."""
    normed = rms_norm(x, weights["norm"], eps=eps) * (1 / x.shape[-1])
    return tanh(linear(normed, weights["router"]))


@op
def altup_predict(
    x: Float[Array, "B T X D"], weights: AltUpWeights, *, settings: AltUp
) -> Float[Array, "B T X D"]:
    """x̂_i = x_i + Σ_j p_ij · x_j, with the coefficients p of the active stream: p = m(x_a) · predict.

    A wider residual stream makes a model better, and each of its matrices larger. Alternating updates
    (Baykal et al. 2023, AltUp, alg. 1) widen the stream alone: X vectors of D numbers, where a layer works on
    one of them, the active stream, with matrices for D. What it would make of the others is predicted before
    it, as a mixture of all, and corrected after it by how far the prediction of the active one was off:

        stream 0 (active)   x₀ ──┐         ┌── x̂₀ ── attention, mlp ── y ──┬── x̂₀ + (1 + c₀)(y − x̂₀)
        stream 1            x₁ ──┤ predict ├── x̂₁ ──────────────────────────┼── x̂₁ + (1 + c₁)(y − x̂₀)
        stream 2            x₂ ──┘         └── x̂₂ ──────────────────────────┴── x̂₂ + (1 + c₂)(y − x̂₀)

    So a layer that costs as much as one of width D moves X · D numbers of a token. In the paper the active
    stream changes from layer to layer, which reads it before the prediction, and coefficients are numbers
    that are learned. In Gemma 3n (Google 2025) they depend on the token, one stream is active in all layers,
    and a layer reads its prediction.

    Conventions: p_ij stands in column i · X + j of `predict`. What the layer keeps of a token in its cache is
    made of the active stream alone.
    """
    m = modalities(x[:, :, settings.active], weights, eps=settings.norm.eps)
    coefficients = split_last(linear(m, weights["predict"]), settings.streams)
    return x + coefficients @ x


@op
def altup_correct(
    predictions: Float[Array, "B T X D"],
    y: Float[Array, "B T D"],
    weights: AltUpWeights,
    *,
    settings: AltUp,
) -> Float[Array, "B T X D"]:
    """x_i = x̂_i + (1 + c_i) · (y − x̂_a), with the coefficients of what came out: c = m(y) · correct.

    y is what a layer made of the prediction x̂_a of the active stream a (Baykal et al. 2023, alg. 1). With
    c = 0 the active stream becomes y, and each other one moves by as much.
    """
    m = modalities(y, weights, eps=settings.norm.eps)
    innovation = y - predictions[:, :, settings.active]
    return predictions + (1 + linear(m, weights["correct"]))[..., None] * innovation[:, :, None]


@op
def same_magnitude(x: Float[Array, "B T D"], like: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """√mean(like²) / √max(mean(x²), 1e-5) · x: the direction of x with the size of `like`.

    Conventions: the bound is Gemma 3n's, so that a vector of zeros stays one.
    """
    wanted, own = ((a * a).mean(-1, keepdims=True) for a in (like, x))
    return sqrt(wanted) / sqrt(own.clip(min=1e-5)) * x


@op
def enter_streams(x: Float[Array, "B T D"], streams: list[StreamWeights]) -> Float[Array, "B T X D"]:
    """The streams before the first layer: the embedding x, and a map of it for each other one, as long as x.

    (Gemma 3n, Google 2025. In Baykal et al. 2023 the table of embeddings is as wide as all streams together.)
    """
    others = [same_magnitude(linear(x, stream["enter"]), x) for stream in streams]
    return concatenate([stream[:, :, None] for stream in (x, *others)], axis=2)


@op
def leave_streams(x: Float[Array, "B T X D"], streams: list[StreamWeights]) -> Float[Array, "B T D"]:
    """The mean of the first stream and of a map of each other one, made as long as the first (Gemma 3n)."""
    first = total = x[:, :, 0]
    for i, stream in enumerate(streams, 1):
        total = total + same_magnitude(linear(x[:, :, i], stream["leave"]), first)
    return total / (1 + len(streams))

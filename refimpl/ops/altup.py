"""Alternating updates: each token has several vectors, and each layer computes only one of them."""

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
    from ..axes import Array, Float


class AltUpWeights(TypedDict):
    """The parameters with which a layer predicts and corrects its X streams: the router, and the two maps
    that make coefficients from the router's numbers.
    """

    router: Float[Array, "D X"]
    norm: Float[Array, " D"]
    predict: Float[Array, "X X*X"]
    correct: Float[Array, "X X"]


class StreamWeights(TypedDict):
    """The maps of all streams except the first. One map makes a stream from the embedding, and another
    maps the stream to the output."""

    enter: Float[Array, "D D"] | Blocks
    leave: Float[Array, "D D"] | Blocks


@op
def modalities(x: Float[Array, "B T D"], weights: AltUpWeights, *, eps: float) -> Float[Array, "B T X"]:
    """Compute m = tanh(rms_norm(x) / D · router): X numbers from −1 to 1 for each token. The coefficients
    of `altup_predict` and `altup_correct` are linear maps of m.
    """
    normed = rms_norm(x, weights["norm"], eps=eps) * (1 / x.shape[-1])
    return tanh(linear(normed, weights["router"]))


@op
def altup_predict(
    x: Float[Array, "B T X D"], weights: AltUpWeights, *, settings: AltUp
) -> Float[Array, "B T X D"]:
    """Predict all X streams before a layer: x̂_i = x_i + Σ_j p_ij · x_j, with coefficients p that the
    active stream x_a determines: p = m(x_a) · predict.

    A wider residual stream makes a model better, but also makes each of its matrices larger. Alternating
    updates (Baykal et al. 2023, AltUp, alg. 1) widen only the stream. It has X vectors of D numbers, and a
    layer works on one of them, the active stream, with matrices for D. Before the layer, all streams are
    predicted as mixtures of all of them. After the layer, each is corrected by the error of the active
    stream's prediction:

        stream 0 (active)   x₀ ──┐         ┌── x̂₀ ── attention, mlp ── y ──┬── x̂₀ + (1 + c₀)(y − x̂₀)
        stream 1            x₁ ──┤ predict ├── x̂₁ ──────────────────────────┼── x̂₁ + (1 + c₁)(y − x̂₀)
        stream 2            x₂ ──┘         └── x̂₂ ──────────────────────────┴── x̂₂ + (1 + c₂)(y − x̂₀)

    So a layer with the cost of width D changes X · D numbers of a token. In the paper, the active stream
    changes from layer to layer, a layer reads the stream as it is before the prediction, and the
    coefficients are learned numbers. In Gemma 3n (Google 2025), the coefficients depend on the token, the
    same stream is active in all layers, and a layer reads the stream's prediction.

    Conventions: p_ij is in column i · X + j of `predict`. A layer's cache is computed only from the active
    stream.
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
    """Correct all X streams after a layer: x_i = x̂_i + (1 + c_i) · (y − x̂_a), with the coefficients c =
    m(y) · correct.

    y is the layer's output for the prediction x̂_a of the active stream a (Baykal et al. 2023, alg. 1).
    With c = 0 the active stream becomes y, and each other stream moves by the same difference y − x̂_a.
    """
    m = modalities(y, weights, eps=settings.norm.eps)
    innovation = y - predictions[:, :, settings.active]
    return predictions + (1 + linear(m, weights["correct"]))[..., None] * innovation[:, :, None]


@op
def same_magnitude(x: Float[Array, "B T D"], like: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """Scale x to the magnitude of `like`: √mean(like²) / √max(mean(x²), 1e-5) · x.

    Conventions: the bound 1e-5 is Gemma 3n's. With this bound, a vector of zeros stays a vector of zeros.
    """
    wanted, own = ((a * a).mean(-1, keepdims=True) for a in (like, x))
    return sqrt(wanted) / sqrt(own.clip(min=1e-5)) * x


@op
def enter_streams(x: Float[Array, "B T D"], streams: list[StreamWeights]) -> Float[Array, "B T X D"]:
    """Return the streams before the first layer. The first stream is the embedding x. Each other stream is
    a linear map of x, scaled to the magnitude of x (Gemma 3n, Google 2025).

    In Baykal et al. 2023, the table of embeddings is as wide as all streams together.
    """
    others = [same_magnitude(linear(x, stream["enter"]), x) for stream in streams]
    return concatenate([stream[:, :, None] for stream in (x, *others)], axis=2)


@op
def leave_streams(x: Float[Array, "B T X D"], streams: list[StreamWeights]) -> Float[Array, "B T D"]:
    """Return the mean of all streams after the last layer. Each stream except the first is first mapped and
    scaled to the magnitude of the first (Gemma 3n).
    """
    first = total = x[:, :, 0]
    for i, stream in enumerate(streams, 1):
        total = total + same_magnitude(linear(x[:, :, i], stream["leave"]), first)
    return total / (1 + len(streams))

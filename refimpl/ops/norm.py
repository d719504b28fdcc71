"""Normalizations over the last axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from ..config import Norm
from .dispatch import OPS, op

if TYPE_CHECKING:
    from ..axes import Array, Float


class NormWeights(TypedDict, total=False):
    """The parameters of a norm: a learned factor and a learned shift, if it has them."""

    weight: Float[Array, " D"]
    bias: Float[Array, " D"]


@op
def normalize(x: Array, weights: NormWeights | None, *, norm: Norm | None) -> Array:
    """Return x normalized by the Config's norm, or x itself if there is no norm."""
    if norm is None:
        return x
    leaves = {} if weights is None else weights
    return OPS[norm.op](x, **leaves, **({} if norm.eps is None else {"eps": norm.eps}))


@op
def affine(
    x: Float[Array, "B T D"], weight: Float[Array, " D"], bias: Float[Array, " D"]
) -> Float[Array, "B T D"]:
    """y = x · weight + bias (Sun et al. 2020, MobileBERT, arXiv 2004.02984, §3.3)."""
    return x * weight + bias


@op
def rms_norm(
    x: Float[Array, "B T D"],
    weight: Float[Array, " D"] | None = None,
    *,
    eps: float,
) -> Float[Array, "B T D"]:
    """y = x / sqrt(mean_d(x²) + eps) · weight (Zhang & Sennrich 2019, eq. 4).

    Conventions: eps is added to the mean inside the root, as in Llama; the mean is over the last axis. In
    families whose weight w means the factor 1 + w, the 1 is added when the model is loaded. No weight means
    ones.
    """
    y = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    return y if weight is None else y * weight


@op
def l2_norm(x: Float[Array, "B T H K"], *, eps: float) -> Float[Array, "B T H K"]:
    """y = x / sqrt(Σ_k x² + eps), of length 1.

    Conventions: eps is added to the sum inside the root, as in flash-linear-attention's `l2norm`; torch's
    `normalize` bounds the length from below instead.
    """
    return x / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + eps)


@op
def layer_norm(
    x: Float[Array, "B T D"],
    weight: Float[Array, " D"] | None = None,
    bias: Float[Array, " D"] | None = None,
    *,
    eps: float,
) -> Float[Array, "B T D"]:
    """y = (x − mean) / sqrt(var + eps) · weight + bias (Ba, Kiros & Hinton 2016, eq. 4).

    Conventions: the variance is the biased one (divided by D), and eps is added inside the root, as
    in torch and ONNX; the paper has no eps. No weight means ones (OLMo).
    """
    centred = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    y = centred / np.sqrt(variance + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias

"""Normalizations of vectors over the last axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

from ..config import Norm
from .dispatch import OPS, op

if TYPE_CHECKING:
    from ..axes import Array, Float


class NormWeights(TypedDict, total=False):
    """The parameters of a norm: a learned factor and a learned shift. Either may be missing."""

    weight: Float[Array, " D"]
    bias: Float[Array, " D"]


@op
def normalize(x: Array, weights: NormWeights | None, *, norm: Norm | None) -> Array:
    """Return x normalized as the Config's norm says. If there is no norm, return x itself."""
    if norm is None:
        return x
    leaves = {} if weights is None else weights
    return OPS[norm.op](x, **leaves, **({} if norm.eps is None else {"eps": norm.eps}))


@op
def affine(
    x: Float[Array, "B T D"], weight: Float[Array, " D"], bias: Float[Array, " D"]
) -> Float[Array, "B T D"]:
    """Compute y = x · weight + bias, which MobileBERT uses in place of a norm (Sun et al. 2020,
    MobileBERT, arXiv 2004.02984, §3.3).
    """
    return x * weight + bias


@op
def rms_norm(
    x: Float[Array, "B T D"],
    weight: Float[Array, " D"] | None = None,
    *,
    eps: float,
) -> Float[Array, "B T D"]:
    """Compute RMSNorm: y = x / sqrt(mean_d(x²) + eps) · weight (Zhang & Sennrich 2019, eq. 4).

    Conventions: eps is added to the mean inside the root, as in Llama. The mean is over the last axis. In
    some families, a weight w means the factor 1 + w; the 1 is added when the model is loaded. A missing
    weight means ones.
    """
    y = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps)
    return y if weight is None else y * weight


@op
def l2_norm(x: Float[Array, "B T H K"], *, eps: float) -> Float[Array, "B T H K"]:
    """Scale each vector to length 1: y = x / sqrt(Σ_k x² + eps).

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
    """Compute LayerNorm: y = (x − mean) / sqrt(var + eps) · weight + bias (Ba, Kiros & Hinton 2016, eq.
    4).

    Conventions: the variance is biased (divided by D), and eps is added inside the root, as in torch and
    ONNX; the paper has no eps. A missing weight means ones (OLMo).
    """
    centred = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    y = centred / np.sqrt(variance + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias

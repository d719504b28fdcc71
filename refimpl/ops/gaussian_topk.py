"""Gaussian top-k: selects the largest elements of a vector by the mean and deviation of its elements,
instead of by sorting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float


@op
def gaussian_topk(x: Float[Array, "B T F"], *, share: float) -> Float[Array, "B T F"]:
    """Compute max(0, x − μ − q · σ), where μ and σ are the mean and deviation of a token's F numbers, and
    q = Φ⁻¹(share). So about this share of the numbers becomes 0.

    Only a few hidden units of a trained mlp matter for a token. If all other units are set to 0, their
    rows of `down` needn't be read. Once the gate is known, their columns of `up` needn't be read either.
    The k largest could be found by sorting, but that is slow on accelerators and has no useful gradient.
    Gates are sums of many products, so they are nearly normal. About this share of them lies below the
    quantile μ + q · σ, which two means determine (You et al. 2025, Spark Transformer; Gemma 3n, Google
    2025, which keeps 5 of 100):

        how many    ▁▂▄▆█▇▅▃▂▁
        x           ────┼───┼──────>      the result is 0 up to the cut, and x − cut beyond the cut
                        μ   μ + q·σ

    Conventions: Φ is the distribution of the standard normal, so 0.5 cuts at the mean, and 0.95 at 1.645
    σ. σ² is the mean of squared differences, divided by F. Exactly this share of the units is cut only if
    x is normally distributed. So the number of units that are left differs from token to token.
    """
    from statistics import NormalDist  # 5 ms, for the two models that have it

    cut = x.mean(-1, keepdims=True) + NormalDist().inv_cdf(share) * x.std(-1, keepdims=True)
    return np.maximum(x - cut, 0)

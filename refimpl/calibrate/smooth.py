"""SmoothQuant (Xiao et al. 2022): large channels of an activation are divided by factors, and the matching
weights are multiplied by them.

    Y = (X diag(s)⁻¹) · (diag(s) W)

The division is folded into the parameters that produce X: a norm's weights, or the columns of the projection
before X. The model computes the same result, but activations become easier to quantize and weights harder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..config import SmoothingSite
from ..errors import NumericError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

__all__ = [
    "SmoothingSite",
    "channel_maxima",
    "nearest_powers_of_two",
    "site_factors",
    "smooth_leaf",
    "smoothing_factors",
]


def channel_maxima(state: Float[Array, " D"] | None, x: Float[Array, "M D"]) -> Float[Array, " D"]:
    """Return max |X_j| of each channel over all batches so far. Raises NumericError for NaN or infinity."""
    maxima = np.abs(x).max(axis=0, initial=0)
    if not np.isfinite(maxima).all():
        raise NumericError("activations must be finite for calibration, got NaN or infinity")
    return maxima if state is None else np.maximum(state, maxima)


def smoothing_factors(
    activation: Float[Array, " D"], weight: Float[Array, " D"], *, alpha: float = 0.5
) -> Float[Array, " D"]:
    """s_j = max|X_j|^α / max|W_j|^(1−α) (Xiao et al. 2022, eq. 4): α = 1 smooths all, 0 equalizes weights.

    Conventions: W_j is row j of all matrices that read the activation; a channel that is 0 on either side has
    the factor 1.
    """
    dead = (activation == 0) | (weight == 0)
    return np.where(dead, 1, activation**alpha / np.where(dead, 1, weight) ** (1 - alpha))


def nearest_powers_of_two(s: Float[Array, " D"]) -> Float[Array, " D"]:
    """Return the nearest powers of two, by ratio.

    With powers of two as factors, no product or sum is rounded differently. So the smoothed model equals the
    original model bit for bit, and the factors can be recovered from its parameters.
    """
    return np.exp2(np.rint(np.log2(s)))


def site_factors(
    site: SmoothingSite,
    activation: Float[Array, " D"],
    leaf: Callable[[str], Float[Array, "D F"]],
    *,
    alpha: float = 0.5,
) -> Float[Array, " D"]:
    """Return the factors of a site, one for each produced channel.

    For channels that share a factor, the maximum over these channels is used.
    """
    weight = np.max([np.abs(leaf(name)).max(axis=1) for name in site.consumers], axis=0)

    def shared_maximum(channels: Array) -> Array:
        return channels.reshape(-1, site.repeats, site.head_size).max(axis=1).reshape(-1)

    return smoothing_factors(shared_maximum(activation), shared_maximum(weight), alpha=alpha)


def smooth_leaf(name: str, leaf: Array, factors: Mapping[SmoothingSite, Float[Array, " D"]]) -> Array:
    """Return the parameter with this name in the smoothed model. All factors are computed from the original
    model.
    """
    for site, s in factors.items():
        if name in site.producers:
            # The channels of values are in two axes where they are scales of the cache.
            leaf = leaf / s.astype(leaf.dtype).reshape(leaf.shape if leaf.size == s.size else -1)
        if name in site.consumers:
            repeated = np.repeat(s.reshape(-1, site.head_size), site.repeats, axis=0).reshape(-1, 1)
            leaf = leaf * repeated.astype(leaf.dtype)
    return leaf

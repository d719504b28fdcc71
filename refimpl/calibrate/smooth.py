"""SmoothQuant (Xiao et al. 2022): the channels of an activation are divided by factors, and the matching
rows of weights are multiplied by the same factors.

    Y = (X diag(s)⁻¹) · (diag(s) W)

The division is folded into the parameters that produce X: a norm's weights, or the columns of the
projection before X. The model computes the same result, but activations become easier to quantize and
weights become harder.
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
    """Return max |X_j| of each channel j over all batches so far. Raises NumericError for NaN or infinity."""
    maxima = np.abs(x).max(axis=0, initial=0)
    if not np.isfinite(maxima).all():
        raise NumericError("activations must be finite for calibration, got NaN or infinity")
    return maxima if state is None else np.maximum(state, maxima)


def smoothing_factors(
    activation: Float[Array, " D"], weight: Float[Array, " D"], *, alpha: float = 0.5
) -> Float[Array, " D"]:
    """Return the factor of each channel: s_j = max|X_j|^α / max|W_j|^(1−α) (Xiao et al. 2022, eq. 4).

    With α = 1, all smoothed channels of the activation have the same maximum. With α = 0, all rows of the
    weights have the same maximum. Conventions: W_j is row j of all matrices that read the activation. If a
    channel is 0 in the activation or in the weights, its factor is 1.
    """
    dead = (activation == 0) | (weight == 0)
    return np.where(dead, 1, activation**alpha / np.where(dead, 1, weight) ** (1 - alpha))


def nearest_powers_of_two(s: Float[Array, " D"]) -> Float[Array, " D"]:
    """Replace each factor by the nearest power of two, by ratio.

    With powers of two as factors, no product or sum is rounded differently. So the smoothed model equals
    the original model bit for bit, and the factors can be recovered from its parameters.
    """
    return np.exp2(np.rint(np.log2(s)))


def site_factors(
    site: SmoothingSite,
    activation: Float[Array, " D"],
    leaf: Callable[[str], Float[Array, "D F"]],
    *,
    alpha: float = 0.5,
) -> Float[Array, " D"]:
    """Return the smoothing factors of a site (an activation that can be smoothed), one for each produced
    channel.

    If several channels share a factor, the maximum over these channels is used.
    """
    weight = np.max([np.abs(leaf(name)).max(axis=1) for name in site.consumers], axis=0)

    def shared_maximum(channels: Array) -> Array:
        return channels.reshape(-1, site.repeats, site.head_size).max(axis=1).reshape(-1)

    return smoothing_factors(shared_maximum(activation), shared_maximum(weight), alpha=alpha)


def smooth_leaf(name: str, leaf: Array, factors: Mapping[SmoothingSite, Float[Array, " D"]]) -> Array:
    """Return one parameter of the smoothed model: the original parameter, divided and multiplied by the
    factors of the sites that it belongs to.

    All factors are computed from the original model.
    """
    for site, s in factors.items():
        if name in site.producers:
            # The channels of values are in two axes where they are scales of the cache.
            leaf = leaf / s.astype(leaf.dtype).reshape(leaf.shape if leaf.size == s.size else -1)
        if name in site.consumers:
            repeated = np.repeat(s.reshape(-1, site.head_size), site.repeats, axis=0).reshape(-1, 1)
            leaf = leaf * repeated.astype(leaf.dtype)
    return leaf

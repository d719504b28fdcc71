"""Filters: they decide which tokens can be sampled, and with which probabilities.

The order is fixed: temperature, top-k, top-p, min-p, typical. Temperature comes first, so that the other
filters see the distribution from which the token is sampled. Typical comes last, since it uses the entropy of
the tokens that the other filters keep. transformers' logits warpers have the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .sampler import Sampler

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array


BLOCK = 64  # rows of the table of maxima in `top_indices`
SMALLEST = -700.0  # e^SMALLEST is a normal number of float64
FIRST_SORTED = 256  # how many of the best tokens are sorted at first


def candidates(
    logits: Float[Array, " N"], sampler: Sampler, needed: float = 1.0
) -> tuple[Int[Array, " K"], Float[Array, " K"]]:
    """Apply the sampler's filters to logits; return the remaining token ids, best first, and their
    probabilities.

    The probabilities sum to one. Conventions: of equal logits, the lower id comes first. Top-p and typical
    keep the token with which the sum reaches the bound. Every filter keeps at least one token. For speed only
    the largest logits are sorted, and more of them only if these don't reach the bound; the result is the
    same as if all N were sorted. If there are no filters, tokens after the cumulative probability `needed`
    may be left out, and the sum is then less than one.
    """
    maximum = float(logits.max())
    top_k = sampler.top_k if sampler.top_k is not None and sampler.top_k < len(logits) else None

    def weights(logits: Array) -> Array:
        return relative_probabilities(logits, maximum, sampler.temperature or 1.0)

    if top_k is not None:
        ids = top_indices(logits, top_k)
        p = weights(logits[ids])
        p = p / p.sum()
    elif sampler.typical_p is not None and sampler.top_p is None and sampler.min_p is None:
        ids = np.arange(len(logits))
        p = weights(logits)
        p = p / p.sum()
    else:
        every = weights(logits)
        total = every.sum()
        bound = needed
        # Without banned tokens, of which a constraint has many.
        possible = every > 0 if sampler.min_p is None else every >= sampler.min_p
        most = int(np.count_nonzero(possible))
        if sampler.top_p is not None or sampler.min_p is not None:
            bound = sampler.top_p or 1.0
        count = min(FIRST_SORTED, most)
        while count < most:
            ids = top_indices(logits, count)
            if np.cumsum(every[ids] / total)[-1] > bound:
                break
            count = min(count * 8, most)
        else:
            ids = np.flatnonzero(possible)
            ids = ids[np.argsort(-logits[ids], kind="stable")]
        p = every[ids] / total
    if sampler.top_p is not None:
        count = _count_reaching(p, sampler.top_p)
        ids, p = ids[:count], p[:count]
    if sampler.min_p is not None:
        count = max(int(np.count_nonzero(p >= sampler.min_p * p[0])), 1)
        ids, p = ids[:count], p[:count]
    if sampler.typical_p is not None:
        kept = typical(p / p.sum(), sampler.typical_p)
        kept = kept[np.lexsort((ids[kept], -logits[ids[kept]]))]
        ids, p = ids[kept], p[kept]
    if p[-1] == 0:  # banned tokens
        ids, p = ids[p > 0], p[p > 0]
    filters = (top_k, sampler.top_p, sampler.min_p, sampler.typical_p)
    if any(value is not None for value in filters):
        p = p / p.sum()
    return ids, p


def relative_probabilities(
    logits: Float[Array, " M"], maximum: float, temperature: float
) -> Float[Array, " M"]:
    """Return exp((logits − maximum) / temperature) in float64: each probability divided by the largest one.

    Conventions: the maximum is subtracted first, so that any low temperature works: a quotient that overflows
    becomes −∞, and its token is never sampled. Results below e^SMALLEST become zero, since they wouldn't
    change a sum.
    """
    exponents = logits.astype(np.float64)
    exponents -= maximum  # in place: the system finds and clears the pages of an array of this size
    with np.errstate(over="ignore"):
        exponents /= temperature
    too_small = exponents < SMALLEST
    if not too_small.any():
        return np.exp(exponents, out=exponents)
    # exp of a subnormal result takes a hundred times as long, and of −∞ six times.
    shares = np.exp(np.maximum(exponents, SMALLEST, out=exponents), out=exponents)
    shares *= ~too_small
    return shares


def typical(p: Float[Array, " M"], mass: float) -> Int[Array, " K"]:
    """Return the indices that locally typical sampling keeps (Meister et al. 2023, "Locally typical
    sampling").

    These are the tokens with a surprise −log p close to the entropy H = −Σ p log p. Indices are sorted by
    |−log p − H|. The first ones are kept until the sum of their probabilities reaches `mass`.
    """
    surprise = -np.log(np.where(p > 0, p, 1))
    distance = np.where(p > 0, np.abs(surprise - p @ surprise), np.inf)
    count = min(FIRST_SORTED, len(p))
    while True:
        nearest = top_indices(-distance, count)
        if count == len(p) or p[nearest].sum() > mass:
            return nearest[: _count_reaching(p[nearest], mass)]
        count = min(count * 8, len(p))


def _count_reaching(p: Array, mass: float) -> int:
    """Return how many of the first tokens are needed until their probabilities sum to `mass`, up to
    rounding.
    """
    return min(int(np.searchsorted(np.cumsum(p), mass - 1e-12)) + 1, len(p))


def top_indices(values: Array, count: int) -> Array:
    """Return the indices of the `count` largest values, largest first. Of equal values the lower index comes
    first.

    For speed the values are split into blocks. The `count`-th largest of the blocks' maxima is a lower bound
    for the `count`-th largest value, so smaller values are skipped. This takes a tenth of the time of
    partitioning all values.
    """
    blocks = len(values) // BLOCK
    if count < blocks:
        maxima = values[: blocks * BLOCK].reshape(BLOCK, blocks).max(axis=0)
        ids = np.flatnonzero(values >= np.partition(maxima, blocks - count)[blocks - count])
    else:
        ids = np.arange(len(values))
    return ids[np.argsort(-values[ids], kind="stable")][:count]

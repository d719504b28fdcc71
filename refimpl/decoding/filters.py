"""The cuts: which tokens may still be drawn, and with what probability.

Their order is fixed: temperature, top-k, top-p, min-p, typical. Temperature comes first, so that the
cuts act on the distribution that is drawn from; typical comes last, since the entropy that it measures
by is that of what is still there to be drawn. It is the order of transformers' warpers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

    from .sampling import Sampler


GROUP = 64


def candidates(logits: Float[Array, " N"], sampler: Sampler, enough: float = 1.0) -> tuple[Array, Array]:
    """Ids that survive the cuts, best first, and their probabilities, which sum to one.

    Ties are broken towards the lower id. Conventions: top-p and typical keep the token that crosses
    the bound; every cut keeps at least one token. The result is that of sorting all N logits; a
    partition finds the few best first, and only if these don't carry the bound does it grow. Where
    nothing cuts, candidates beyond the probability `enough` may be left out, and the sum is less.
    """
    temperature = sampler.temperature or 1.0
    top = float(logits.max()) / temperature
    top_k = sampler.top_k if sampler.top_k is not None and sampler.top_k < len(logits) else None

    def weigh(some: Array) -> Array:
        return np.exp(some.astype(np.float64) / temperature - top)

    if top_k is not None:
        best = largest(logits, top_k)
        weights = weigh(logits[best])
        p = weights / weights.sum()
    elif sampler.typical_p is not None and sampler.top_p is None and sampler.min_p is None:
        best, weights = np.arange(len(logits)), weigh(logits)
        p = weights / weights.sum()
    else:
        every = weigh(logits)
        total = every.sum()
        most = len(logits) if sampler.min_p is None else int(np.count_nonzero(every >= sampler.min_p))
        bound = enough if sampler.top_p is None and sampler.min_p is None else sampler.top_p or 1.0
        few = min(256, most)
        while True:
            best = largest(logits, few)
            p = every[best] / total
            if few == most or np.cumsum(p)[-1] > bound:
                break
            few = min(few * 8, most)
    if sampler.top_p is not None:
        keep = _carrying(p, sampler.top_p)
        best, p = best[:keep], p[:keep]
    if sampler.min_p is not None:
        keep = max(int(np.count_nonzero(p >= sampler.min_p * p[0])), 1)
        best, p = best[:keep], p[:keep]
    if sampler.typical_p is not None:
        kept = typical(p / p.sum(), sampler.typical_p)
        kept = kept[np.lexsort((best[kept], -logits[best[kept]]))]
        best, p = best[kept], p[kept]
    if p[-1] == 0:  # banned tokens
        best, p = best[p > 0], p[p > 0]
    cut = any(v is not None for v in (top_k, sampler.top_p, sampler.min_p, sampler.typical_p))
    return best, p / p.sum() if cut else p


def typical(p: Float[Array, " M"], mass: float) -> Int[Array, " K"]:
    """Places of the tokens whose surprise is nearest to the expected one, together at least `mass`.

    In order of |−log p − H|, H = −Σ p log p (Meister et al. 2023, "Locally typical sampling"): of a
    text that carries information evenly neither the dullest nor the oddest token is typical.
    """
    surprise = -np.log(np.where(p > 0, p, 1))
    off = np.where(p > 0, np.abs(surprise - p @ surprise), np.inf)
    few = min(256, len(p))
    while True:
        nearest = largest(-off, few)
        if few == len(p) or p[nearest].sum() > mass:
            return nearest[: _carrying(p[nearest], mass)]
        few = min(few * 8, len(p))


def _carrying(p: Array, mass: float) -> int:
    """How many of the first tokens it takes to carry a probability, but for rounding."""
    return min(int(np.searchsorted(np.cumsum(p), mass - 1e-12)) + 1, len(p))


def largest(logits: Array, count: int) -> Array:
    """The ids of the `count` largest logits, largest first, ties to the lower id.

    Of groups of logits the `count`-th largest maximum is a bound that so many logits reach. Finding it
    takes one pass, a tenth of what partitioning all of them takes.
    """
    groups = len(logits) // GROUP
    if count < groups:
        tops = logits[: groups * GROUP].reshape(GROUP, groups).max(axis=0)
        ids = np.flatnonzero(logits >= np.partition(tops, groups - count)[groups - count])
    else:
        ids = np.arange(len(logits))
    return ids[np.argsort(-logits[ids], kind="stable")][:count]

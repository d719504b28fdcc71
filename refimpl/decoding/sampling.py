"""From logits to a token: penalties, then filters, then one choice by a given random number.

No function here draws a random number itself, so a test can call each with any number. A token depends only
on the logits, the text, and the random number of its position, whatever the order in which positions are
computed. Penalties come first because they depend on the text and not on the shape of the distribution.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from ..errors import NumericError
from .filters import candidates
from .penalties import adjust_logits, check_any_allowed
from .sampler import Sampler

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array


def draw(p: Float[Array, " M"], u: float) -> int:
    """Return the index that the number u in [0, 1) selects from the distribution p (inverse transform
    sampling).

    Conventions: index i owns the interval [Σ p[:i], Σ p[:i+1]); an empty interval is never selected. If
    rounding makes the sum less than 1, the last interval extends to 1.
    """
    index = int(np.searchsorted(np.cumsum(p), u, side="right"))
    return index if index < len(p) else int(np.flatnonzero(p)[-1])


def check_logits(logits: Array) -> None:
    """Raise NumericError if a logit isn't finite, since NaN would be sampled as a token."""
    if not np.isfinite(logits).all():
        raise non_finite_error()


def non_finite_error() -> NumericError:
    """Return the error for logits that aren't finite."""
    return NumericError("logits must be finite, got NaN or infinity: the weights or a kernel are broken")


def process_logits(
    logits: Float[Array, " N"],
    sampler: Sampler,
    tokens: Int[Array, " M"],
    new_tokens: int = 0,
    stop_ids: Collection[int] = (),
    last: bool = False,
) -> Float[Array, " N"]:
    """Check that the logits are finite, and apply the sampler's penalties (`penalties.adjust_logits`)."""
    check_logits(logits)
    if sampler.adjusts_logits:
        logits = adjust_logits(logits, sampler, tokens, new_tokens, stop_ids, last)
        check_any_allowed(logits.max())
    return logits


def sample(logits: Float[Array, " N"], sampler: Sampler, u: float) -> int:
    """Return the token that the random number u in [0, 1) selects from the filtered distribution.

    For greedy decoding, return the token with the largest logit.
    """
    if sampler.greedy:
        return int(np.argmax(logits))
    ids, p = candidates(logits, sampler, needed=u)
    return int(ids[draw(p, u)])

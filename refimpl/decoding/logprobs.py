"""Log-probabilities of a chosen token and of the likeliest tokens at its position."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .filters import top_indices

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


class TokenLogprob(NamedTuple):
    """The log-probability of a chosen token, and the likeliest tokens with their log-probabilities, best
    first.
    """

    token: int
    logprob: float
    top: list[tuple[int, float]]


def token_logprob(logits: Float[Array, " N"], token: int, count: int) -> TokenLogprob:
    """Return the log-probability ln softmax(logits) of a token, and of the `count` likeliest tokens.

    Conventions: `logits` are the model's own, before penalties, temperature and filters. So the values are
    the model's probabilities, not the sampler's, and the chosen token may not be among the likeliest tokens.
    The values are natural logarithms in float64. Of equal logits, the lower id comes first.
    """
    log_p = log_softmax(logits[None].astype(np.float64))[0]
    best = top_indices(logits, count) if count else ()
    return TokenLogprob(token, float(log_p[token]), [(int(i), float(log_p[i])) for i in best])


def logprob(logits: Float[Array, " N"], token: int) -> float:
    """Return the log-probability ln softmax(logits) of one token, without computing it for all tokens.

    Conventions: the token's logit must not be −∞. Exponentials are computed in the logits' type, and their
    sum in float64.
    """
    shifted = logits - logits.max()
    return float(shifted[token]) - float(np.log(np.exp(shifted).sum(dtype=np.float64)))


def log_softmax(logits: Float[Array, "B N"]) -> Float[Array, "B N"]:
    """Return ln softmax of each row. A row that contains only −∞ is returned unchanged."""
    maximum = logits.max(axis=1, keepdims=True)
    shifted = logits - np.where(maximum > -np.inf, maximum, 0.0)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    return shifted - np.log(np.where(total > 0, total, 1.0))

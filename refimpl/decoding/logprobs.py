"""Log-probabilities: of a chosen token, and of the tokens that were likeliest at its position."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .filters import top_indices

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


class TokenLogprob(NamedTuple):
    """A chosen token with its log-probability, and the likeliest tokens with theirs, best first."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


def token_logprob(logits: Float[Array, " N"], token: int, count: int) -> TokenLogprob:
    """Return ln softmax(logits) of a token, and of the `count` likeliest tokens.

    Conventions: `logits` are the model's own, before penalties, temperature and filters. So the values are
    the model's probabilities, not those of the sampler, and the chosen token need not be among the likeliest
    ones. Natural logarithms in float64; ties go to the lower id.
    """
    log_p = log_softmax(logits[None].astype(np.float64))[0]
    best = top_indices(logits, count) if count else ()
    return TokenLogprob(token, float(log_p[token]), [(int(i), float(log_p[i])) for i in best])


def logprob(logits: Float[Array, " N"], token: int) -> float:
    """Return ln softmax(logits) of one token that isn't banned, in less time than all tokens take.

    Conventions: exponentials are computed in the logits' type, and their sum in float64.
    """
    shifted = logits - logits.max()
    return float(shifted[token]) - float(np.log(np.exp(shifted).sum(dtype=np.float64)))


def log_softmax(logits: Float[Array, "B N"]) -> Float[Array, "B N"]:
    """Return ln softmax of each row; a row that has only −∞ stays unchanged."""
    maximum = logits.max(axis=1, keepdims=True)
    shifted = logits - np.where(maximum > -np.inf, maximum, 0.0)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    return shifted - np.log(np.where(total > 0, total, 1.0))

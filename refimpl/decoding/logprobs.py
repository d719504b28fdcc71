"""Log-probabilities: of a chosen token, and of the tokens that might have stood in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .filters import top_indices

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array


class TokenLogprob(NamedTuple):
    """A chosen token, its log-probability, and the likeliest tokens with theirs, best first."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


def token_logprob(logits: Float[Array, " N"], token: int, count: int) -> TokenLogprob:
    """ln softmax(logits) at a token, and at the `count` likeliest tokens.

    Conventions: `logits` are the model's own, before penalties, temperature and filters, so the figures say
    what the model thinks and not how it was sampled, and the likeliest tokens need not have the chosen one
    among them. Natural logarithms in float64; ties go to the lower id.
    """
    log_p = log_softmax(logits[None].astype(np.float64))[0]
    best = top_indices(logits, count) if count else ()
    return TokenLogprob(token, float(log_p[token]), [(int(i), float(log_p[i])) for i in best])


def logprob(logits: Float[Array, " N"], token: int) -> float:
    """ln softmax(logits) at a token that isn't banned, in less time than all tokens take.

    Conventions: exponentials are of the logits' own type, their sum is float64.
    """
    shifted = logits - logits.max()
    return float(shifted[token]) - float(np.log(np.exp(shifted).sum(dtype=np.float64)))


def log_softmax(logits: Float[Array, "B N"]) -> Float[Array, "B N"]:
    """ln softmax of each row; a row of −∞ alone stays as it is."""
    maximum = logits.max(axis=1, keepdims=True)
    shifted = logits - np.where(maximum > -np.inf, maximum, 0.0)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    return shifted - np.log(np.where(total > 0, total, 1.0))

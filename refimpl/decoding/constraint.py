"""Constraints on a text: they say which tokens may come next, so that the text can still satisfy the
constraint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .penalties import check_any_allowed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array


class Constraint(Protocol):
    """A formal language, such as the documents of a JSON schema, that a text must belong to.

    Both methods take all tokens of an answer so far. The next call may have fewer tokens than the last one:
    speculative decoding tries a draft's tokens, and takes some of them back.
    """

    def allowed(self, tokens: Sequence[int]) -> Bool[Array, " N"]:
        """Return which tokens may come next; a stop token may come next if the text belongs to the
        language.
        """
        ...

    def is_complete(self, tokens: Sequence[int]) -> bool:
        """Whether the text belongs to the language and no token can follow it."""
        ...


def constrain(logits: Float[Array, " N"], allowed: Bool[Array, " N"]) -> Float[Array, " N"]:
    """Set tokens that may not come next to −∞; raise LimitError if no token is left."""
    # Without branches, several times as fast as np.where where tokens that may follow are scattered.
    highest = (allowed.astype(logits.dtype) - 0.5) * np.inf
    constrained = np.minimum(logits, highest)
    check_any_allowed(constrained.max())
    return constrained

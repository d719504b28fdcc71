"""Constraints: they limit which token may come next, so that the finished text belongs to a formal
language.
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
    """A formal language that a generated text must belong to, such as the documents of a JSON schema.

    Both methods take all tokens of the answer so far. A call may pass fewer tokens than the call before:
    speculative decoding tries drafted tokens and removes the rejected ones.
    """

    def allowed(self, tokens: Sequence[int]) -> Bool[Array, " N"]:
        """Return for each token of the vocabulary whether it may come next.

        A stop token may come next if the text already belongs to the language.
        """
        ...

    def is_complete(self, tokens: Sequence[int]) -> bool:
        """Return whether the text belongs to the language and no further token is allowed."""
        ...


def constrain(logits: Float[Array, " N"], allowed: Bool[Array, " N"]) -> Float[Array, " N"]:
    """Set the logits of tokens that aren't allowed to −∞; raise LimitError if no token is left."""
    # Without branches, several times as fast as np.where where tokens that may follow are scattered.
    highest = (allowed.astype(logits.dtype) - 0.5) * np.inf
    constrained = np.minimum(logits, highest)
    check_any_allowed(constrained.max())
    return constrained

"""What a text must be: which tokens may follow, so that it can still become that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from .penalties import check_any_allowed

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray as Array


class Constraint(Protocol):
    """A language of texts, such as the documents of a JSON schema.

    Both methods take all of an answer's tokens so far, which may go back behind those of an earlier call: a
    draft's tokens are tried, and some taken back.
    """

    def allowed(self, tokens: Sequence[int]) -> Bool[Array, " N"]:
        """Which tokens may follow; a stop token may where the text is one of the language."""
        ...

    def is_complete(self, tokens: Sequence[int]) -> bool:
        """Whether the text is one of the language, and nothing can follow."""
        ...


def constrain(logits: Float[Array, " N"], allowed: Bool[Array, " N"]) -> Float[Array, " N"]:
    """−∞ for the tokens that may not follow; LimitError where that leaves none."""
    # Without branches, several times as fast as np.where where tokens that may follow are scattered.
    highest = (allowed.astype(logits.dtype) - 0.5) * np.inf
    constrained = np.minimum(logits, highest)
    check_any_allowed(constrained.max())
    return constrained

"""Small strategies that laws share."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st


def permutations(count: int) -> st.SearchStrategy[np.ndarray]:
    """Orders of so many things."""
    return st.permutations(range(count)).map(np.array)


def splits(count: int) -> st.SearchStrategy[int]:
    """Where so many things are cut in two; either part may be all of them, if there is no other way."""
    return st.integers(1, count - 1) if count > 1 else st.just(1)

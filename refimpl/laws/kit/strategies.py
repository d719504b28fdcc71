"""Small hypothesis strategies for random inputs that several laws use."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st


def permutations(count: int) -> st.SearchStrategy[np.ndarray]:
    """Return a strategy for random permutations of 0 … count − 1."""
    return st.permutations(range(count)).map(np.array)


def splits(count: int) -> st.SearchStrategy[int]:
    """Return a strategy for the place at which `count` items are split in two. A single item isn't split."""
    return st.integers(1, count - 1) if count > 1 else st.just(1)

"""Merges low-rank updates of matrices: those of an adapter, and those that a checkpoint itself stores."""

from __future__ import annotations

import numpy as np

SLICE = 2**22  # numbers that are in float64 at a time


def merge(
    weight: np.ndarray,
    down: np.ndarray,
    up: np.ndarray,
    scale: float = 1.0,
    magnitude: np.ndarray | None = None,
) -> np.ndarray:
    """Return the merged weight [out, in] in float32, from A [r, in], B [out, r] and, with DoRA, m [out]."""
    merged = np.empty(weight.shape, np.float32)
    exact_down = down.astype(np.float64)
    rows = max(1, SLICE // weight.shape[1])
    # Where an adapter's number or a norm's inverse is infinite, so is the result, which the caller refuses.
    with np.errstate(all="ignore"):
        for start in range(0, len(weight), rows):
            part = slice(start, start + rows)
            exact = weight[part] + scale * (up[part].astype(np.float64) @ exact_down)
            if magnitude is not None:
                exact *= (magnitude[part] / np.linalg.norm(exact, axis=1))[:, None]
            merged[part] = exact
    return merged

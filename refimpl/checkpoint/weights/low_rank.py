"""Merge low-rank updates into matrices: the updates of an adapter, and the updates that a checkpoint itself
stores.
"""

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
    """Return W + scale · B A [out, in] in float32: a weight with its low-rank update. With DoRA, each row is
    scaled so that its norm is m.

    `weight` is W [out, in], `down` is A [r, in], `up` is B [out, r]. `magnitude` is m [out], or None without
    DoRA. The sums are computed in float64.
    """
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

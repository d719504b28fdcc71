"""Find the time at which each token of a transcript was said, by dynamic time warping over cross-attention.

Some heads of Whisper's decoder attend to the part of the sound that is being transcribed. Their weights form
a picture, with a row for each token and a column for each 0.02 seconds. In this picture, a text runs from the
upper left to the lower right. The cheapest path through the picture says where each token begins:

            0.0 s ───────────────► 0.2 s
    <|0.00|>  █ ▒ · · · · · · · ·        0.00
     Some     · ▒ █ █ ▒ · · · · ·        0.04
     words    · · · · ▒ █ █ ▒ · ·        0.10
    .         · · · · · · · ▒ █ ▒        0.16
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

WIDTH = 7  # columns of the median filter, as openai has it


def median_filter(x: Float[Array, "T S"], width: int = WIDTH) -> Float[Array, "T S"]:
    """Replace each value by the median of the `width` values around it in its row.

    Conventions: rows are mirrored at both ends without repeating the end value (NumPy's "reflect"). Rows of
    width // 2 values or fewer are returned unchanged.
    """
    side = width // 2
    if x.shape[1] <= side:
        return x
    padded = np.pad(x, ((0, 0), (side, side)), mode="reflect")
    return np.sort(np.lib.stride_tricks.sliding_window_view(padded, width, 1), -1)[..., side]


def warp(cost: Float[Array, "T S"]) -> Int[Array, " T"]:
    """Find the cheapest path from the upper left to the lower right; return the first column of each row on
    it.

    total[t, s] = cost[t, s] + min(total[t-1, s-1], total[t-1, s], total[t, s-1])   (Sakoe & Chiba 1978)

    Conventions: if totals are equal, the path stays in the same row. Totals are float32. OpenAI's code and
    transformers follow the same two conventions. For speed, all cells with the same sum of row and column are
    computed together.
    """
    rows, columns = cost.shape
    total = np.full((rows + columns + 1, rows + 1), np.inf, np.float32)  # by sum, and by row from 1
    steps = np.full(total.shape, 2, np.int8)
    total[0, 0] = 0
    for both in range(2, rows + columns + 1):
        at = np.arange(max(1, both - columns), min(rows, both - 1) + 1)
        aslant, down, along = total[both - 2, at - 1], total[both - 1, at - 1], total[both - 1, at]
        taken = np.where(
            (aslant < down) & (aslant < along), 0, np.where((down < aslant) & (down < along), 1, 2)
        )
        total[both, at] = cost[at - 1, both - at - 1] + np.choose(taken, [aslant, down, along])
        steps[both, at] = taken
    found, row, column = np.zeros(rows, np.int64), rows, columns
    while row > 0:
        found[row - 1] = column - 1
        step = steps[row + column, row]
        row, column = row - (step < 2), column - (step != 1)
    return found


def token_begins(attention: Float[Array, "H T S"]) -> Int[Array, " T"]:
    """Return the column at which each token begins, computed from the weights of the alignment heads.

    Each column is standardized over the tokens, so that a column to which all tokens attend has no influence.
    Rows are smoothed by `median_filter`, and heads are averaged (transformers' `return_token_timestamps`).
    """
    mean = np.zeros(attention.shape[1:])
    for weights in attention:  # one after the other: a large model has hundreds of heads
        spread = weights.std(0)
        mean += median_filter((weights - weights.mean(0)) / np.where(spread == 0, 1, spread)) / len(attention)
    return warp(-mean)

"""Compare the cost of a full and of an adaptive softmax for a large vocabulary. Both compute log p of the
next word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...refimpl.ops.adaptive_softmax import Tail, adaptive_target_log_probs
from .scaling import sample

WORDS = 100_000
SHORT_LIST, FREQUENT = 2000, 8000  # words of the short list, and of the first of two clusters
SHRINK = 4  # a cluster's inner width is so many times smaller than that of the one before
WIDTH, TOKENS = 256, 128


@dataclass(frozen=True)
class SoftmaxCost:
    """The cost of a softmax: its number of parameters, and the seconds and bytes of memory to compute log p
    of TOKENS next words."""

    parameters: int
    seconds: float
    bytes: int


def needed_bytes(words: int) -> int:
    """Return about how many bytes of memory a full softmax over `words` words needs: its table, and four
    arrays of logits during the computation.
    """
    return 4 * words * (WIDTH + 4 * TOKENS)


def softmax_costs(words: int, until: float) -> dict[str, SoftmaxCost]:
    """Measure the cost of a full and of an adaptive softmax over `words` words, on random float32 numbers.

    The next words follow Zipf's law: the probability of the r-th word is proportional to 1 / r. An
    adaptive softmax saves time because most next words are in its short list. After the time `until`, only
    one sample of each softmax is taken.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, TOKENS, WIDTH), np.float32)
    next_words = (words ** rng.random((1, TOKENS))).astype(int) - 1

    def cost(clusters: Sequence[int]) -> SoftmaxCost:
        """Return the cost of an adaptive softmax with clusters of these sizes. All other words are in its
        short list.
        """
        shapes = [(WIDTH, words - sum(clusters) + len(clusters))]
        for i, count in enumerate(clusters):
            inner = WIDTH // SHRINK ** (i + 1)
            shapes += [(WIDTH, inner), (inner, count)]
        head, *rest = (rng.standard_normal(shape, np.float32) * shape[0] ** -0.5 for shape in shapes)
        tails: list[Tail] = [{"down": d, "up": u} for d, u in zip(rest[::2], rest[1::2], strict=True)]
        taken = sample(lambda: adaptive_target_log_probs(x, next_words, head, tails), until)
        return SoftmaxCost(sum(rows * columns for rows, columns in shapes), taken.seconds, taken.bytes)

    return {"adaptive": cost([FREQUENT, words - SHORT_LIST - FREQUENT]), "full": cost([])}

"""A lattice of all segmentations of a word into pieces. Each piece is an edge between two positions.

With log-probabilities as scores, the lattice gives the best path (Viterbi), the n best paths (Nagata 1994),
the expected count of each edge (forward-backward), and a path sampled by its probability. No function here
generates random numbers; the caller passes them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import accumulate, count
from math import exp, inf, log, log1p
from typing import NamedTuple

from ...errors import LimitError

AGENDA = 100_000  # hypotheses that `nbest` may hold


class Edge(NamedTuple):
    """A piece in a word: where it starts and ends, its id, and its score (a log-probability)."""

    start: int
    end: int
    id: int
    score: float


class Lattice:
    """All pieces of a word of `length` characters, as edges between positions.

    At each position that a path can reach, at least one edge ends.
    """

    def __init__(self, length: int, edges: Iterable[Edge]) -> None:
        self.length = length
        self.ending: list[list[Edge]] = [[] for _ in range(length + 1)]
        self.starting: list[list[Edge]] = [[] for _ in range(length + 1)]
        for edge in edges:
            self.ending[edge.end].append(edge)
            self.starting[edge.start].append(edge)

    def best(self) -> list[float]:
        """Return the score of the best path from the word's start to each position."""
        score = [0.0] + [-inf] * self.length
        for end in range(1, self.length + 1):
            for edge in self.ending[end]:
                score[end] = max(score[end], score[edge.start] + edge.score)
        return score

    def viterbi(self) -> list[Edge]:
        """Return the edges of the best path. If paths are equally good, prefer the last pieces that come
        first in the lattice.
        """
        paths: list[tuple[float, Edge | None]] = [(0.0, None), *[(-inf, None)] * self.length]
        for end in range(1, self.length + 1):
            for edge in self.ending[end]:
                total = paths[edge.start][0] + edge.score
                if paths[end][1] is None or total > paths[end][0]:
                    paths[end] = (total, edge)
        path: list[Edge] = []
        position = self.length
        while (edge := paths[position][1]) is not None:
            path.append(edge)
            position = edge.start
        return path[::-1]

    def nbest(self, n: int) -> list[list[Edge]]:
        """Return the n best paths, the best first.

        The search is A* from the word's end. Its bound is the best score to each position."""
        ahead, order = self.best(), count()
        agenda: list[tuple[float, int, int, tuple[Edge, ...], float]] = [(0.0, 0, self.length, (), 0.0)]
        complete: list[list[Edge]] = []
        while agenda and len(complete) < n:
            _, _, position, behind, score = heapq.heappop(agenda)
            if position == 0:
                complete.append(list(behind))
                continue
            for edge in self.ending[position]:
                total = score + edge.score
                bound = -(ahead[edge.start] + total)
                heapq.heappush(agenda, (bound, next(order), edge.start, (edge, *behind), total))
            if len(agenda) > AGENDA:
                raise LimitError(
                    f"the {n} best paths may need at most {AGENDA} hypotheses, but this word needs more"
                )
        return complete

    def forward(self, alpha: float = 1.0) -> list[float]:
        """Return log Σ exp(alpha · score) for each position, over all paths from the word's start to it."""
        total = [0.0] + [-inf] * self.length
        for end in range(1, self.length + 1):
            total[end] = log_sum_exp([total[edge.start] + alpha * edge.score for edge in self.ending[end]])
        return total

    def add_expected_counts(self, weight: float, counts: list[float]) -> float:
        """Add each piece's expected count, times `weight`, to `counts`. Return the word's log-probability."""
        total = self.forward()
        backward = [-inf] * self.length + [0.0]
        for start in range(self.length - 1, -1, -1):
            backward[start] = log_sum_exp([backward[edge.end] + edge.score for edge in self.starting[start]])
        log_probability = total[self.length]
        for edges in self.ending:
            for edge in edges:
                counts[edge.id] += weight * exp(
                    total[edge.start] + edge.score + backward[edge.end] - log_probability
                )
        return log_probability

    def sample(self, alpha: float, uniforms: Sequence[float]) -> list[Edge]:
        """Return a path sampled with probability ∝ exp(alpha · score) (Kudo 2018, equation 9).

        Pieces are sampled from the end backwards. Each piece uses the next number of `uniforms`, which are in
        [0, 1).
        """
        total = self.forward(alpha)
        path: list[Edge] = []
        position = self.length
        for u in uniforms:
            if position == 0:
                break
            shares = [exp(total[e.start] + alpha * e.score - total[position]) for e in self.ending[position]]
            # The last one where rounding lets the shares end before u.
            chosen = next((i for i, a in enumerate(accumulate(shares)) if u < a), len(shares) - 1)
            path.append(self.ending[position][chosen])
            position = path[-1].start
        if position:
            raise LimitError(f"a word of {self.length} characters needs a uniform number for each piece")
        return path[::-1]


def log_sum_exp(values: Sequence[float]) -> float:
    """Return log Σ exp(values), without overflow."""
    most = max(values, default=-inf)
    if len(values) == 2:
        return most + log1p(exp(min(values) - most)) if most > -inf else most
    return most + log(sum(exp(value - most) for value in values)) if most > -inf else most

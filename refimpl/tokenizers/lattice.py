"""All ways to cut a word into pieces, as a lattice: each piece an edge between two of its places.

With log-probabilities as scores, one walk gives the best way (Viterbi), another the n best (Nagata
1994), another the expected count of each edge (forward-backward), and one a way drawn by its
probability. No function here draws a random number.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import accumulate, count
from math import exp, inf, log, log1p
from typing import NamedTuple

from ..errors import LimitError

AGENDA = 100_000  # hypotheses that `nbest` may hold


class Edge(NamedTuple):
    """A piece at its place."""

    start: int
    end: int
    id: int
    score: float


class Lattice:
    """The edges of a word of `length` characters, at least one into each place that is reached."""

    def __init__(self, length: int, edges: Iterable[Edge]) -> None:
        self.length = length
        self.ending: list[list[Edge]] = [[] for _ in range(length + 1)]
        self.starting: list[list[Edge]] = [[] for _ in range(length + 1)]
        for edge in edges:
            self.ending[edge.end].append(edge)
            self.starting[edge.start].append(edge)

    def best(self) -> list[float]:
        """The score of the best way to each place."""
        score = [0.0] + [-inf] * self.length
        for end in range(1, self.length + 1):
            for edge in self.ending[end]:
                score[end] = max(score[end], score[edge.start] + edge.score)
        return score

    def viterbi(self) -> list[Edge]:
        """The best way; of equal ones that whose last pieces come first in the lattice."""
        ways: list[tuple[float, Edge | None]] = [(0.0, None), *[(-inf, None)] * self.length]
        for end in range(1, self.length + 1):
            for edge in self.ending[end]:
                total = ways[edge.start][0] + edge.score
                if ways[end][1] is None or total > ways[end][0]:
                    ways[end] = (total, edge)
        found: list[Edge] = []
        place = self.length
        while (edge := ways[place][1]) is not None:
            found.append(edge)
            place = edge.start
        return found[::-1]

    def nbest(self, n: int) -> list[list[Edge]]:
        """The n best ways, best first: A* from the end, with the best scores to each place as bound."""
        ahead, order = self.best(), count()
        agenda: list[tuple[float, int, int, tuple[Edge, ...], float]] = [(0.0, 0, self.length, (), 0.0)]
        found: list[list[Edge]] = []
        while agenda and len(found) < n:
            _, _, place, behind, score = heapq.heappop(agenda)
            if place == 0:
                found.append(list(behind))
                continue
            for edge in self.ending[place]:
                total = score + edge.score
                bound = -(ahead[edge.start] + total)
                heapq.heappush(agenda, (bound, next(order), edge.start, (edge, *behind), total))
            if len(agenda) > AGENDA:
                raise LimitError(f"the {n} best ways may need {AGENDA} hypotheses, this word needs more")
        return found

    def forward(self, alpha: float = 1.0) -> list[float]:
        """log Σ exp(alpha · score) over all ways to each place."""
        total = [0.0] + [-inf] * self.length
        for end in range(1, self.length + 1):
            total[end] = log_sum([total[edge.start] + alpha * edge.score for edge in self.ending[end]])
        return total

    def expected(self, weight: float, into: list[float]) -> float:
        """Add `weight` times the expected count of each piece; answers the log-probability of the word."""
        total = self.forward()
        rest = [-inf] * self.length + [0.0]
        for start in range(self.length - 1, -1, -1):
            rest[start] = log_sum([rest[edge.end] + edge.score for edge in self.starting[start]])
        whole = total[self.length]
        for edges in self.ending:
            for edge in edges:
                into[edge.id] += weight * exp(total[edge.start] + edge.score + rest[edge.end] - whole)
        return whole

    def sample(self, alpha: float, uniforms: Sequence[float]) -> list[Edge]:
        """A way drawn with probability ∝ exp(alpha · score) (Kudo 2018, equation 9).

        From the end backwards, each piece takes the next of `uniforms` in [0, 1).
        """
        total = self.forward(alpha)
        found: list[Edge] = []
        place = self.length
        for u in uniforms:
            if place == 0:
                break
            shares = [exp(total[e.start] + alpha * e.score - total[place]) for e in self.ending[place]]
            # The last one, where rounding leaves something of u.
            chosen = next((i for i, a in enumerate(accumulate(shares)) if u < a), len(shares) - 1)
            found.append(self.ending[place][chosen])
            place = found[-1].start
        if place:
            raise LimitError(f"a word of {self.length} characters needs a uniform number for each piece")
        return found[::-1]


def log_sum(values: Sequence[float]) -> float:
    """log Σ exp(values), without overflow."""
    most = max(values, default=-inf)
    if len(values) == 2:
        return most + log1p(exp(min(values) - most)) if most > -inf else most
    return most + log(sum(exp(value - most) for value in values)) if most > -inf else most

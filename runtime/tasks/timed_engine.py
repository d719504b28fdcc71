"""Measure on this machine how long steps of several tokens take, so that drafts are made only while they save
time.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np

from ...refimpl.decoding.speculative import estimated_cost
from ...refimpl.engine.protocol import Cache, Engine
from ...refimpl.engine.wrapper import EngineWrapper

# Of each size so many steps are remembered: the fastest of them was disturbed by nothing, and a text that
# grows is soon measured anew.
RECENT = 8
# Of a default draft: a step of 12 tokens is the largest whose products read all weights once, on AVX512.
LONGEST_DRAFT = 11


class TimedEngine(EngineWrapper[Engine]):
    """An engine that measures the time of its small steps. Pass its method `cost` to
    `refimpl.decoding.speculative.PromptLookup`.

    `cost` decides whether tokens are drafted, and depends on measured times. So use this engine only where
    speculative decoding gives the same bits (`runtime.bundle.same_bits`).
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._seconds: dict[int, deque[float]] = {}

    def step(
        self,
        tokens: np.ndarray,
        cache: Cache,
        lengths: np.ndarray | None = None,
        at: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Cache]:
        begin = time.perf_counter()
        result = self.engine.step(tokens, cache, lengths, at)
        if tokens.size <= 1 + LONGEST_DRAFT:
            recent = self._seconds.setdefault(tokens.size, deque(maxlen=RECENT))
            recent.append(time.perf_counter() - begin)
        return result

    def cost(self, tokens: int) -> float:
        """Return the time of a step with `tokens` tokens, as a multiple of the time of a step with one token.

        The time is an estimate until steps of both sizes have been measured.
        """
        one, several = self._seconds.get(1), self._seconds.get(tokens)
        return min(several) / min(one) if one and several else estimated_cost(tokens)

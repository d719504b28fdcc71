"""A generator's values and what it returns, as the loops of decoding give tokens and then their cache."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

Y = TypeVar("Y")
R = TypeVar("R")


def drained(generator: Generator[Y, None, R]) -> tuple[list[Y], R]:
    """All that a generator yields, and what it returns."""
    values: list[Y] = []
    while True:
        try:
            values.append(next(generator))
        except StopIteration as end:
            return values, end.value

"""Arithmetic on arrays by several threads: NumPy lets other threads run meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from .hardware import threads

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The function of each item, in their order, computed by as many threads as this machine has use for.

    The threads see the caller's context, such as what NumPy does with numbers that aren't finite.
    """
    count = min(threads(), len(items))
    if count < 2:
        return [function(item) for item in items]
    context = copy_context()
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda item: context.copy().run(function, item), items))

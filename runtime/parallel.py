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

    The threads see the caller's context, such as what NumPy does with numbers that aren't finite. The
    caller's thread is one of them: the C library keeps freed memory for each thread, a sixth of a model's
    size where two others worked.
    """
    results: dict[int, R] = {}
    left = iter(range(len(items)))

    def work() -> None:
        for index in left:
            results[index] = function(items[index])

    others = min(threads(), len(items)) - 1
    if others < 1:
        work()
    else:
        with ThreadPoolExecutor(others) as pool:
            futures = [pool.submit(copy_context().run, work) for _ in range(others)]
            work()
            for future in futures:
                future.result()
    return [results[index] for index in range(len(items))]

"""Run functions on arrays in several threads, which helps because NumPy releases the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from .hardware import threads

T = TypeVar("T")
R = TypeVar("R")


def in_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Apply a function to each item in several threads, and return the results in the items' order.

    The number of threads is `hardware.threads()`. The threads use the caller's context variables, such as
    NumPy's handling of numbers that aren't finite. The caller's own thread computes too, because the C
    library keeps freed memory for each additional thread. With two additional threads, that was a sixth of a
    model's size.
    """
    results: dict[int, R] = {}
    left = iter(range(len(items)))

    def work() -> None:
        for index in left:
            results[index] = function(items[index])

    others = min(threads(), len(items)) - 1 if len(items) > 1 else 0
    if others < 1:
        work()
    else:
        with ThreadPoolExecutor(others) as pool:
            futures = [pool.submit(copy_context().run, work) for _ in range(others)]
            work()
            for future in futures:
                future.result()
    return [results[index] for index in range(len(items))]

"""Arithmetic by several threads: in order, in the caller's context, with its errors."""

import threading

import numpy as np
import pytest
from tfm.runtime import parallel


@pytest.mark.parametrize("count", [1, 3])
def test_the_results_are_in_order_and_the_threads_those_that_help(monkeypatch, count):
    monkeypatch.setattr(parallel, "threads", lambda: count)
    together = threading.Barrier(count, timeout=60)

    def inverse(item: int) -> tuple[float, int]:
        together.wait()
        return 1 / np.float64(item), threading.get_ident()

    with np.errstate(divide="ignore"):  # a warning is an error here
        results = parallel.in_threads(inverse, [2, 4, 0])
    assert [value for value, _ in results] == [0.5, 0.25, np.inf]
    assert len({thread for _, thread in results}) == count


def test_an_error_of_one_is_raised(monkeypatch):
    monkeypatch.setattr(parallel, "threads", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        parallel.in_threads(lambda item: 1 // item, [1, 0, 2])

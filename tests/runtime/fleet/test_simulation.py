"""The simulation of many replicas against what queueing theory says of one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bench.fleet_simulation import Fleet, simulate


def erlang_c(servers: int, load: float) -> float:
    """The share of requests that wait in M/M/c (Erlang, 1917), of servers that are busy for this share."""
    offered = servers * load
    full = offered**servers / math.factorial(servers) / (1 - load)
    return full / (sum(offered**k / math.factorial(k) for k in range(servers)) + full)


@pytest.mark.parametrize(("slots", "load"), [(1, 0.5), (3, 0.7)])
def test_one_replica_is_erlangs_queue(slots: int, load: float):
    """Times with the mean 2 that are nearly exponential: 20,000 of its quantiles."""
    times = -2 * np.log1p(-(np.arange(20_000) + 0.5) / 20_000)
    waits, _ = simulate(Fleet(1, slots, choices=1), times, load, 60_000, seed=1)
    share = erlang_c(slots, load)
    assert np.mean(waits > 0) == pytest.approx(share, rel=0.03)
    assert waits.mean() == pytest.approx(share * 2 / (slots * (1 - load)), rel=0.1)


def test_two_choices_wait_less_than_one():
    """Whose replica is drawn alone stands in line there, also while others are free."""
    times = np.ones(1)
    one, _ = simulate(Fleet(20, 2, choices=1), times, 0.9, 20_000)
    two, services = simulate(Fleet(20, 2, choices=2), times, 0.9, 20_000)
    assert np.array_equal(services, np.ones(18_000))
    assert two.mean() < one.mean() / 2
    assert two.min() == 0

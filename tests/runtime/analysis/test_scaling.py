"""Exponents of memory, and how far back an LSTM and attention reach."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tfm.runtime import hardware
from tfm.runtime.analysis import scaling


@pytest.mark.parametrize("name", ["flash", "gated delta"])
def test_memory_is_linear_where_tiles_are_small(name):
    make = scaling.mechanisms()[name].make
    peaks = [scaling.peak(make(n)) for n in (4096, 8192)]
    assert 2**0.8 <= peaks[1] / peaks[0] <= 2**1.2


@pytest.fixture
def clock(monkeypatch):
    """Clocks that only calls move forward: by what they compute, and by what the machine delays them."""
    now = SimpleNamespace(seconds=0.0, delays=0.0)
    monkeypatch.setattr(scaling.time, "monotonic", lambda: now.seconds + now.delays)
    monkeypatch.setattr(scaling.time, "process_time", lambda: now.seconds)
    monkeypatch.setattr(hardware, "user_seconds", lambda: now.seconds)
    monkeypatch.setattr(hardware, "memory", lambda: None)
    return now


def kinds(clock, **costs):
    """Mechanisms that take these seconds at a length."""

    def mechanism(cost):
        def make(n):
            def call():
                clock.seconds += cost(n)
                return bytes(n)

            return call

        return scaling.Mechanism(make, steps=int, path=int, kept=int)

    return {name: mechanism(cost) for name, cost in costs.items()}


def test_no_time_is_left_while_a_length_fits(clock, monkeypatch):
    """A slow kind takes no time from a quick one, and what a quick one leaves goes to the slow one."""
    every = kinds(clock, slow=lambda n: n * n / 1e4, quick=lambda n: n / 1e4)
    monkeypatch.setattr(scaling, "mechanisms", lambda: every)
    lengths = [64 * 2**i for i in range(8)]
    told = []
    growth = scaling.measure(lengths, 400, lambda _, done, total: told.append((done, total)))
    assert len(growth["quick"].seconds) == 8
    assert (growth["slow"].stopped, growth["quick"].stopped) == ("time", None)
    assert told[0] == (1, 16)
    assert told[-1] == (16, 16)
    assert told == sorted(told)
    # The next length would take four times what the last one took for a call of memory and one of time.
    assert clock.seconds <= 400 < clock.seconds + 4 * 2 * growth["slow"].seconds[-1]
    assert growth["slow"].time.exponent == pytest.approx(2)
    assert growth["quick"].time == pytest.approx((1, 1, 1, 1024, 8192))


def test_one_delay_stops_nothing(clock, monkeypatch):
    """The first call of a kind waits for the machine; all lengths of it would fit all the same."""

    def delayed(n):
        if clock.delays == 0:
            clock.delays = 20.0
        return n / 1e4

    every = kinds(clock, delayed=delayed, quick=lambda n: n / 1e4)
    monkeypatch.setattr(scaling, "mechanisms", lambda: every)
    growth = scaling.measure([64 * 2**i for i in range(8)], 60, lambda *_: None)
    assert [one.stopped for one in growth.values()] == [None, None]


def test_kinds_advance_together(clock, monkeypatch):
    """The first call of a kind computes more than the later ones, as it imports something."""
    calls = []

    def late(n):
        calls.append(n)
        return n / 1e4 + 1.0 * (len(calls) == 1)

    every = kinds(clock, late=late, one=lambda n: n / 1e4, other=lambda n: n / 1e4)
    monkeypatch.setattr(scaling, "mechanisms", lambda: every)
    growth = scaling.measure([64 * 2**i for i in range(12)], 12, lambda *_: None)
    reached = [len(one.seconds) for one in growth.values()]
    assert min(reached) >= 4
    assert max(reached) - min(reached) <= 1


@pytest.mark.parametrize("seconds", range(100, 1000, 100))
def test_time_is_bounded_on_a_busy_machine(clock, monkeypatch, seconds):
    """Each second of computing takes four."""

    def cost(n):
        clock.delays += 3 * n * n / 1e4
        return n * n / 1e4

    monkeypatch.setattr(scaling, "mechanisms", lambda: kinds(clock, plain=cost, other=cost))
    scaling.measure([64 * 2**i for i in range(8)], seconds, lambda *_: None)
    assert clock.seconds + clock.delays <= seconds


def test_the_first_length_is_measured_whatever_the_time(clock, monkeypatch):
    every = kinds(clock, slow=lambda n: float(n), quick=lambda n: n / 1e4)
    monkeypatch.setattr(scaling, "mechanisms", lambda: every)
    growth = scaling.measure([64, 128, 256], 1, lambda *_: None)
    assert [len(one.seconds) for one in growth.values()] == [1, 1]
    assert growth["slow"].time is None


def test_lengths_are_whole_tiles_and_double_at_most():
    lengths = scaling.lengths_up_to(4096)
    assert lengths == [64, 128, 192, 256, 384, 512, 704, 1024, 1472, 2048, 2880, 4096]


def test_a_time_is_the_median_of_its_samples(clock, monkeypatch):
    """One call is slowed down by something else."""
    costs = iter([1.0, 1.0, 9.0, 1.5, 1.25, 1.0])  # the first call is that of memory

    def call():
        clock.seconds += next(costs)

    assert scaling.sample(call, 100).seconds == 1.25


def test_an_exponent_and_its_interval():
    """numpy.polyfit's own covariance, and a table's quantile of Student's t for four degrees of freedom."""
    n = [2**i for i in range(12)]
    values = [x**1.5 * (1.1 if i % 2 else 1.0) for i, x in enumerate(n)]
    fit = scaling.fit(n, values)
    (slope, _), covariance = np.polyfit(np.log(n[6:]), np.log(values[6:]), 1, cov=True)
    assert (fit.first, fit.last) == (n[6], n[-1])
    assert fit.exponent == pytest.approx(slope)
    assert fit.high - slope == pytest.approx(slope - fit.low)
    assert fit.high - slope == pytest.approx(2.776 * covariance[0, 0] ** 0.5)
    assert scaling.fit(n[:3], values[:3]) is None
    four = scaling.fit(n[:5], values[:5])
    assert (four.first, four.last) == (n[1], n[4]), "four points at least"


def test_how_an_lstm_and_attention_forget():
    """The LSTM's dependence falls as exp(−N) until rounding hides it, attention's as 1/N."""
    dependence = scaling.dependence([2, 4, 8, 16, 32, 256])
    assert dependence.lstm[-1] is None
    assert dependence.lstm[:5] == sorted(dependence.lstm[:5], reverse=True)
    assert 0.5 < dependence.lstm_a_token < 0.95
    assert -1.5 < dependence.attention_exponent < -0.5


def test_the_difference_is_the_derivative(monkeypatch):
    """For a layer with a known derivative, in which later inputs count for more."""

    def summed(x, *_):
        return None, np.sum(np.arange(1, x.shape[1] + 1)[None, :, None] * np.sin(x), axis=1)

    monkeypatch.setattr(scaling, "lstm", summed)
    got = scaling.dependence([3, 5]).lstm
    assert all(value is not None and 0.2 < value < 1 for value in got), (
        "a cosine a number, along a unit direction"
    )

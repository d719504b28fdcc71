"""The cost of attention and an LSTM by the length of a text, and how far back each reaches."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import Literal, NamedTuple

import numpy as np

from ...refimpl.ops.attention import attend
from ...refimpl.ops.banded import banded_attend
from ...refimpl.ops.flash import flash_attend
from ...refimpl.ops.linear_attention import elu_features, linear_attend
from ...refimpl.ops.lstm import lstm
from ...refimpl.ops.sparse import BlockPairs, bigbird_layout, block_pairs, sparse_attend
from .. import hardware

# One text, one head of so many numbers, as many in the LSTM's state.
WIDTH = 32
WINDOW = 64
TILE = 64
BLOCK = 64
LEAST = 0.25  # seconds of user time that a figure is taken from: the clock counts hundredths
DISTANCES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STEP = 1e-4  # of the central difference: its error is the square, 1e-8, that of rounding is 1e-12
NOISE = 1e-10  # a smaller difference is rounding

Heads = Callable[[np.ndarray, np.ndarray, np.ndarray], object]  # of q, k, v


@dataclass(frozen=True)
class Mechanism:
    """One way for tokens to see others: `make(n)` gives the call to measure, on n tokens.

    `steps(n)` can't run in parallel, however many processors there are, a sum counting as one; `path(n)`
    layers or steps are between the first input and the last output.
    """

    make: Callable[[int], Callable[[], object]]
    steps: Callable[[int], int]
    path: Callable[[int], int]


class Sample(NamedTuple):
    """One call: seconds of computing, and the most bytes that it used at once."""

    seconds: float
    bytes: int


@dataclass(frozen=True)
class Growth:
    """Cost of a mechanism at each length, as far as time and memory allowed, and its exponents in the length.

    An exponent is None where too few lengths were measured.
    """

    seconds: list[float]
    bytes: list[int]
    time_exponent: float | None
    memory_exponent: float | None
    steps: list[int]
    path: list[int]


@dataclass(frozen=True)
class Dependence:
    """How much the last of n outputs changes with the first input, for each n.

    None means below rounding. The LSTM's falls by the factor `lstm_a_token` with each token, attention's with
    n to the power of `attention_exponent`.
    """

    n: list[int]
    lstm: list[float | None]
    attention: list[float | None]
    lstm_a_token: float
    attention_exponent: float


Stopped = Literal["time", "memory"]
Progress = Callable[[str, int, Sample | Stopped], None]  # mechanism, tokens, what was measured or ran out


def _draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _on(attention: Heads) -> Callable[[int], Callable[[], object]]:
    def make(n: int) -> Callable[[], object]:
        q, k, v = _draw(3, 1, n, 1, WIDTH)
        return lambda: attention(q, k, v)

    return make


def _flash(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> object:
    return flash_attend(q, k, v, tile=TILE)


def _banded(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> object:
    return banded_attend(q, k, v, band=(WINDOW, 0))


def _linear(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> object:
    return linear_attend(elu_features(q), elu_features(k), v)


def _sparse(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> object:
    blocks = np.arange(q.shape[1] // BLOCK)
    random_blocks = np.random.default_rng(0).integers(0, len(blocks), (len(blocks), 2))
    rows, columns = block_pairs(bigbird_layout(blocks, blocks, random_blocks, reach=1, first=1))
    q, k, v = (a.reshape(1, -1, BLOCK, 1, WIDTH) for a in (q, k, v))
    return sparse_attend(q, k, v, BlockPairs(rows, columns))


def _recurrent(n: int) -> Callable[[], object]:
    x = _draw(1, n, WIDTH)
    wx = _draw(WIDTH, 4 * WIDTH) * WIDTH**-0.5
    wh = _draw(WIDTH, 4 * WIDTH) * WIDTH**-0.5
    return lambda: lstm(x, {"wx": wx, "wh": wh})


def _one(n: int) -> int:
    return 1


def mechanisms() -> dict[str, Mechanism]:
    """The mechanisms to compare, each as the specification defines it, on random float32 numbers."""
    return {
        "plain": Mechanism(_on(attend), steps=_one, path=_one),
        # Tiles of queries run side by side, those of keys one after the other.
        "flash": Mechanism(_on(_flash), steps=lambda n: ceil(n / TILE), path=_one),
        "window": Mechanism(_on(_banded), steps=_one, path=lambda n: ceil((n - 1) / (WINDOW - 1))),
        # Through the first block, which all see and which sees all.
        "sparse": Mechanism(_on(_sparse), steps=_one, path=lambda n: 2),
        "linear": Mechanism(_on(_linear), steps=_one, path=_one),
        "lstm": Mechanism(_recurrent, steps=lambda n: n, path=lambda n: n),
    }


def measure(lengths: Sequence[int], seconds: float, progress: Progress) -> dict[str, Growth]:
    """Mechanism -> its cost at each length. It stops early rather than exceed its share of the seconds."""
    end = time.monotonic() + seconds
    growth: dict[str, Growth] = {}
    every = mechanisms()
    for name, mechanism in reversed(
        every.items()
    ):  # the most expensive come last and get what the others leave
        until = time.monotonic() + max(0, end - time.monotonic()) / (len(every) - len(growth))
        samples = _samples(name, mechanism, lengths, until, progress)
        measured = lengths[: len(samples)]
        times = [sample.seconds for sample in samples]
        peaks = [sample.bytes for sample in samples]
        growth[name] = Growth(
            times,
            peaks,
            exponent(measured, times),
            exponent(measured, peaks),
            [mechanism.steps(n) for n in measured],
            [mechanism.path(n) for n in measured],
        )
    return {name: growth[name] for name in every}


def _samples(
    name: str, mechanism: Mechanism, lengths: Sequence[int], until: float, progress: Progress
) -> list[Sample]:
    """The samples of a mechanism at each length, until memory or time would run out."""
    samples: list[Sample] = []
    took = 0.0
    for n in lengths:
        # Nothing here grows faster than the square, and a length is at most twice the one before.
        if samples and 4 * samples[-1].bytes > 0.8 * (hardware.memory() or float("inf")):
            progress(name, n, "memory")
            break
        if samples and time.monotonic() + 4 * took > until:
            progress(name, n, "time")
            break
        begin = time.monotonic()
        call = mechanism.make(n)
        peak_bytes = peak(call)
        samples.append(Sample(user_time(call), peak_bytes))
        took = time.monotonic() - begin
        progress(name, n, samples[-1])
    return samples


def peak(call: Callable[[], object]) -> int:
    """The most bytes that a call uses at once, its result included."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def user_time(call: Callable[[], object]) -> float:
    """Seconds of computing per call. Fresh memory costs system time, page by page, which isn't counted."""
    begin, calls, spent = os.times().user, 0, 0.0
    while spent < LEAST:
        call()
        calls += 1
        spent = os.times().user - begin
    return spent / calls


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float | None:
    """The slope of log value over log length in the upper half; None for fewer than three lengths."""
    if len(lengths) < 3:
        return None
    upper = slice(len(lengths) // 2, None)
    return slope([log(n) for n in lengths[upper]], [log(v) for v in values[upper]])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The slope of the least-squares line."""
    return float(np.polyfit(x, y, 1)[0])


def dependence(distances: Sequence[int]) -> Dependence:
    """How much the last output of n tokens changes with the first input, for an LSTM and for attention.

    |y(x + hd) − y(x − hd)| / 2h along a random direction d, root mean square over eight texts. Weights have
    the size 1/sqrt(width); the LSTM's forget gate has a bias of 1, as usual.
    """
    rng = np.random.default_rng(0)
    wx, wh = rng.standard_normal((2, WIDTH, 4 * WIDTH)) * WIDTH**-0.5
    wq, wk, wv = rng.standard_normal((3, WIDTH, WIDTH)) * WIDTH**-0.5
    bias = np.repeat([0.0, 1.0, 0.0, 0.0], WIDTH)

    def last_of_lstm(x: np.ndarray) -> np.ndarray:
        return lstm(x, {"wx": wx, "wh": wh, "bias": bias})[1]

    def last_of_attention(x: np.ndarray) -> np.ndarray:
        q, k, v = x[:, -1:] @ wq, x @ wk, x @ wv
        return attend(q[:, :, None], k[:, :, None], v[:, :, None])

    changes: dict[str, list[float]] = {"lstm": [], "attention": []}
    for n in distances:
        x = rng.standard_normal((8, n, WIDTH))
        direction = rng.standard_normal((8, WIDTH))
        change = np.zeros((8, n, WIDTH))
        change[:, 0] = STEP * direction / np.linalg.norm(direction, axis=1, keepdims=True)
        for name, last in (("lstm", last_of_lstm), ("attention", last_of_attention)):
            moved = (last(x + change) - last(x - change)) / (2 * STEP)
            changes[name].append(float(np.sqrt(np.sum(moved**2) / 8)))
    clear = [(n, log(v)) for n, v in zip(distances, changes["lstm"], strict=True) if v > NOISE]
    return Dependence(
        list(distances),
        [v if v > NOISE else None for v in changes["lstm"]],
        [v if v > NOISE else None for v in changes["attention"]],
        lstm_a_token=float(np.exp(slope([n for n, _ in clear], [v for _, v in clear]))),
        attention_exponent=slope([log(n) for n in distances], [log(v) for v in changes["attention"]]),
    )

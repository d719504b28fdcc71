"""Measure how the cost of attention and recurrences grows with the length of a text.

Also measure how many numbers each mechanism keeps of the text, and how strongly attention and an LSTM
depend on early tokens.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, inf, log
from statistics import median
from typing import Literal, NamedTuple

import numpy as np

from ...refimpl.ops.attention import attend
from ...refimpl.ops.banded import banded_attend
from ...refimpl.ops.delta import gated_delta_chunked
from ...refimpl.ops.flash import flash_attend
from ...refimpl.ops.latent_attention import absorbed_attend
from ...refimpl.ops.linear_attention import elu_features, linear_attend
from ...refimpl.ops.lstm import lstm
from ...refimpl.ops.sparse import BlockPairs, bigbird_pattern, block_pairs, sparse_attend
from .. import hardware
from ..progress import Progress

# One text, one head of so many numbers, as many in the LSTM's state.
WIDTH = 32
WINDOW = 64
TILE = 64
BLOCK = 64
RANK = 16  # of a latent
FLOAT_BYTES = 4
SAMPLES = 5  # of a call's time at a length, if there is time; their median counts
LEAST = 0.02  # seconds of computing in a sample: a short call is repeated
POINTS = 4  # the fewest that an exponent is fitted to
# 0.975 quantiles of Student's t for 1, 2, … degrees of freedom; more than these change little.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
DISTANCES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STEP = 1e-4  # of the central difference: its error is the square, 1e-8, that of rounding is 1e-12
NOISE = 1e-10  # a smaller difference is rounding

Heads = Callable[[np.ndarray, np.ndarray, np.ndarray], object]  # of q, k, v
Stopped = Literal["time", "memory"]


@dataclass(frozen=True)
class Mechanism:
    """A way for tokens to exchange information, such as attention.

    - `make(n)`: returns a function that computes the mechanism on n tokens.
    - `steps(n)`: the number of operations that must run one after another, however many processors there
      are. A sum counts as one operation.
    - `path(n)`: the number of layers or steps between the first input and the last output.
    - `kept(n)`: how many numbers of n tokens must be kept to compute the next token.
    """

    make: Callable[[int], Callable[[], object]]
    steps: Callable[[int], int]
    path: Callable[[int], int]
    kept: Callable[[int], int]


class Sample(NamedTuple):
    """The cost of one call.

    - `seconds`: its computing time.
    - `bytes`: its peak memory.
    - `spent`: the seconds of processor time that one measurement of both took.
    """

    seconds: float
    bytes: int
    spent: float


class Fit(NamedTuple):
    """A power law, cost ∝ length^exponent, fitted to the lengths from `first` to `last`.

    `low` and `high` are the bounds of the exponent's 95 % confidence interval.
    """

    exponent: float
    low: float
    high: float
    first: int
    last: int


@dataclass(frozen=True)
class Growth:
    """The cost of a mechanism at each measured length, and how the cost grows with the length.

    - `seconds`, `bytes`: the time and the peak memory of the computation.
    - `kept`: the bytes that must be kept afterwards to compute the next token.
    - `time`, `memory`: power laws fitted to `seconds` and `bytes`; None if too few lengths were measured.
    - `steps`, `path`: the figures of `Mechanism` at each length.
    - `stopped`: the resource, "time" or "memory", that would have run out at the next length; None if all
      lengths were measured.
    """

    seconds: list[float]
    bytes: list[int]
    kept: list[int]
    time: Fit | None
    memory: Fit | None
    steps: list[int]
    path: list[int]
    stopped: Stopped | None


@dataclass(frozen=True)
class Dependence:
    """A measurement of how much the last of n outputs changes with the first input, for several n.

    - `lstm`, `attention`: the changes for each n; None if a change is smaller than rounding errors.
    - `lstm_a_token`: the factor by which each further token multiplies the LSTM's change.
    - `attention_exponent`: attention's change is proportional to n to the power of this exponent.
    """

    n: list[int]
    lstm: list[float | None]
    attention: list[float | None]
    lstm_a_token: float
    attention_exponent: float


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
    rows, columns = block_pairs(bigbird_pattern(blocks, blocks, random_blocks, reach=1, first=1))
    q, k, v = (a.reshape(1, -1, BLOCK, 1, WIDTH) for a in (q, k, v))
    return sparse_attend(q, k, v, BlockPairs(rows, columns))


def _latents(n: int) -> Callable[[], object]:
    q, latents = _draw(1, n, 1, WIDTH), _draw(1, n, RANK)
    wk, wv = _draw(2, RANK, WIDTH)
    return lambda: absorbed_attend(q, latents, wk, wv)


def _delta(n: int) -> Callable[[], object]:
    q, k, v = _draw(3, 1, n, 1, WIDTH)
    k /= np.linalg.norm(k, axis=-1, keepdims=True)
    rates = np.full((1, n, 1), 0.5, np.float32)
    state = np.zeros((1, 1, WIDTH, WIDTH), np.float32)
    return lambda: gated_delta_chunked(q, k, v, state, -rates, rates, chunk=TILE)


def _recurrent(n: int) -> Callable[[], object]:
    x = _draw(1, n, WIDTH)
    wx = _draw(WIDTH, 4 * WIDTH) * WIDTH**-0.5
    wh = _draw(WIDTH, 4 * WIDTH) * WIDTH**-0.5
    return lambda: lstm(x, {"wx": wx, "wh": wh})


def _one(n: int) -> int:
    return 1


def _tiles(n: int) -> int:
    return ceil(n / TILE)


def _window_path(n: int) -> int:
    return ceil((n - 1) / (WINDOW - 1))


def _keys_and_values(n: int) -> int:
    return 2 * n * WIDTH


def mechanisms() -> dict[str, Mechanism]:
    """Return the mechanisms to compare, by name. Each computes the specification's ops on random float32
    numbers.
    """
    return {
        "plain": Mechanism(_on(attend), _one, _one, _keys_and_values),
        # Tiles of queries run side by side, those of keys one after the other.
        "flash": Mechanism(_on(_flash), _tiles, _one, _keys_and_values),
        "window": Mechanism(_on(_banded), _one, _window_path, lambda n: _keys_and_values(min(n, WINDOW))),
        # Through the first block, which all see and which sees all.
        "sparse": Mechanism(_on(_sparse), _one, lambda n: 2, _keys_and_values),
        "linear": Mechanism(_on(_linear), _one, _one, lambda n: WIDTH * WIDTH + WIDTH),
        "lstm": Mechanism(_recurrent, lambda n: n, lambda n: n, lambda n: 2 * WIDTH),
        "latents": Mechanism(_latents, _one, _one, lambda n: n * RANK),
        # Chunks one after the other, from state to state.
        "gated delta": Mechanism(_delta, _tiles, _tiles, lambda n: WIDTH * WIDTH),
    }


def lengths_up_to(longest: int) -> list[int]:
    """Return lengths from TILE to `longest`. Each is a multiple of TILE and about √2 times the length before
    it.
    """
    return sorted({max(1, round(longest / 2 ** (i / 2) / TILE)) * TILE for i in range(16)})


def measure(lengths: Sequence[int], until: float, progress: Progress) -> dict[str, Growth]:
    """Measure the cost of each mechanism at each length, as far as memory and time allow.

    `until` is the end of the measurement, in the time of `time.monotonic`. The shortest remaining length
    is measured next. A mechanism that takes more than its share of the time waits until the others are
    finished. The time for the next length is predicted from processor time, so a single delay on a busy
    machine doesn't end the measurement. The first length is always measured.
    """
    every = mechanisms()
    samples: dict[str, list[Sample]] = {name: [] for name in every}
    stopped: dict[str, Stopped] = {}
    unfinished, total = list(every), len(every) * len(lengths)
    begin, computed = time.monotonic(), time.process_time()
    while unfinished:
        now = time.monotonic()
        share = (until - now) / len(unfinished)
        delay = max(1.0, (now - begin) / max(time.process_time() - computed, LEAST))
        seconds = {name: delay * _expected_seconds(lengths, samples[name]) for name in unfinished}
        name = min(unfinished, key=lambda name: (seconds[name] > share, len(samples[name])))
        measured = samples[name]
        if measured and now + seconds[name] > until:
            stopped[name] = "time"
        elif measured and _expected_bytes(lengths, measured) > 0.8 * (hardware.memory() or inf):
            stopped[name] = "memory"
        else:
            measured.append(sample(every[name].make(lengths[len(measured)]), now + share))
        if name in stopped or len(measured) == len(lengths):
            unfinished.remove(name)
        left = sum(len(lengths) - len(samples[other]) for other in unfinished)
        progress("measuring cost by length", total - left, total)
    return {
        name: _growth(mechanism, lengths, samples[name], stopped.get(name))
        for name, mechanism in every.items()
    }


def _expected_seconds(lengths: Sequence[int], samples: Sequence[Sample]) -> float:
    """Return the most seconds of computing that the next length may take; 0 before the first measurement."""
    return _square_growth(lengths, len(samples)) * samples[-1].spent if samples else 0.0


def _expected_bytes(lengths: Sequence[int], samples: Sequence[Sample]) -> float:
    return _square_growth(lengths, len(samples)) * samples[-1].bytes


def _square_growth(lengths: Sequence[int], at: int) -> float:
    """Return the largest factor by which a cost can grow from one length to the next. No cost grows faster
    than the square of the length.
    """
    return (lengths[at] / lengths[at - 1]) ** 2


def _growth(
    mechanism: Mechanism, lengths: Sequence[int], samples: Sequence[Sample], stopped: Stopped | None
) -> Growth:
    measured = lengths[: len(samples)]
    seconds, peaks = [one.seconds for one in samples], [one.bytes for one in samples]
    return Growth(
        seconds,
        peaks,
        [mechanism.kept(n) * FLOAT_BYTES for n in measured],
        fit(measured, seconds),
        fit(measured, peaks),
        [mechanism.steps(n) for n in measured],
        [mechanism.path(n) for n in measured],
        stopped,
    )


def sample(call: Callable[[], object], until: float) -> Sample:
    """Measure the cost of a call, as the median of several runs. After the time `until`, no further run
    begins.
    """
    begin, computed = time.monotonic(), time.process_time()
    peak_bytes = peak(call)
    times = [user_time(call)]
    spent, took = time.process_time() - computed, time.monotonic() - begin
    while len(times) < SAMPLES and time.monotonic() + took <= until:
        times.append(user_time(call))
    return Sample(median(times), peak_bytes, spent)


def peak(call: Callable[[], object]) -> int:
    """Return the largest number of bytes that a call uses at any one time, including its result."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def user_time(call: Callable[[], object]) -> float:
    """Return the seconds of processor time that a call takes, without the time that the system spends on new
    pages of memory.
    """
    begin, calls, spent = hardware.user_seconds(), 0, 0.0
    while spent < LEAST:
        call()
        calls += 1
        spent = hardware.user_seconds() - begin
    return spent / calls


def fit(lengths: Sequence[int], values: Sequence[float]) -> Fit | None:
    """Fit a power law to the upper half of the lengths, where constant costs matter least. Returns None for
    fewer than POINTS lengths.

    The fit is the least-squares line of log value over log length. The half-width of the confidence
    interval is Student's t times the slope's standard error, which comes from the residuals. So the
    interval accounts for noise, and for a curve that isn't a power law yet.
    """
    points = max(POINTS, len(lengths) - len(lengths) // 2)
    if len(lengths) < points:
        return None
    x, y = np.log(lengths[-points:]), np.log(values[-points:])
    exponent, constant = map(float, np.polyfit(x, y, 1))
    freedom = points - 2
    squares = np.sum((y - exponent * x - constant) ** 2)
    error = np.sqrt(squares / freedom / np.sum((x - x.mean()) ** 2))
    margin = float(STUDENT[min(freedom, len(STUDENT)) - 1] * error)
    return Fit(exponent, exponent - margin, exponent + margin, lengths[-points], lengths[-1])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of the least-squares line through the points (x, y)."""
    return float(np.polyfit(x, y, 1)[0])


def dependence(distances: Sequence[int]) -> Dependence:
    """Measure how much the last output of n tokens depends on the first input, for an LSTM and for attention.

    The measure is |y(x + hd) − y(x − hd)| / 2h along a random direction d, as the root mean square over
    eight texts. Weights have the size 1/sqrt(width). The LSTM's forget gate has a bias of 1, as usual.
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

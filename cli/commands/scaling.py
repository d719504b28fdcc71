"""`tfm-cli scaling`: what attention and an LSTM cost as a text grows, and what they carry over."""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import options as o
from ..console import out, out_json, say, size, table
from ..plot import Plot, draw

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

# One text, one head of so many numbers, as many in the LSTM's state.
WIDTH = 32
WINDOW, TILE, BLOCK = 64, 64, 64
LEAST = 0.25  # seconds of user time that a figure is taken from: the clock counts hundredths
DISTANCES = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STEP = 1e-4  # of the central difference: errors of its square, 1e-8, and of rounding, 1e-12
NOISE = 1e-10  # below it the difference is rounding


@dataclass(frozen=True)
class Kind:
    """One way to let tokens see others: `make(n)` gives the call to measure, on n tokens.

    `steps(n)` must wait for one another however many processors there are, a sum counted as one;
    `path(n)` layers or steps lie between the first input and the last output.
    """

    make: Callable[[int], Callable[[], Any]]
    steps: Callable[[int], int]
    path: Callable[[int], int]


def command(
    max_n: Annotated[int, typer.Option("--max-n", min=1024, max=2**20, help="The longest text.")] = 16_384,
    seconds: Annotated[
        float, typer.Option(min=1, help="A kind ends early rather than pass its part of this time.")
    ] = 90,
    plot: Plot = None,
    as_json: o.AsJson = False,
) -> None:
    """Time and memory of attention and of an LSTM by the length of a text, and how far back each reaches."""
    # One thread, so that time is work done; read when the library is loaded, which is not yet.
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    lengths = sorted({max(1, round(max_n / 2**i / TILE)) * TILE for i in range(8)})
    rows = measure(lengths, seconds)
    carried = dependence([n for n in DISTANCES if n <= max_n])
    if plot is not None:
        draw(plot, 15, 5, lambda figure: picture(figure, lengths, rows, carried))
    if as_json:
        about = {"lengths": lengths, "width": WIDTH, "window": WINDOW, "tile": TILE, "block": BLOCK}
        out_json({**about, "kinds": rows, "dependence": carried})
        return
    table(
        ("KIND", "TIME ~ N^", "MEMORY ~ N^", "UP TO N", "SECONDS", "MEMORY", "STEPS IN A ROW", "PATH"),
        [
            (name, shown(r["time_exponent"]), shown(r["memory_exponent"]), lengths[len(r["seconds"]) - 1],
             f"{r['seconds'][-1]:.3g}", size(r["bytes"][-1]), r["steps"][-1], r["path"][-1])
            for name, r in rows.items()
        ],
    )  # fmt: skip
    out("exponents are fitted over the upper half of N; steps and path are at the longest N\n")
    table(
        ("N", "LSTM", "ATTENTION"),
        [
            (n, *(f"< {NOISE:g}" if v is None else f"{v:.3g}" for v in pair))
            for n, *pair in zip(carried["n"], carried["lstm"], carried["attention"], strict=True)
        ],
    )
    out("change of the last output by a change of the first input (central difference, float64)")
    out(f"LSTM: x {carried['lstm_a_token']:.3f} a token; attention: ~ N^{carried['attention_exponent']:.2f}")


def shown(exponent: float | None) -> str:
    return "too short" if exponent is None else f"{exponent:.2f}"


def kinds() -> dict[str, Kind]:
    """What is compared, each as the specification has it, on random float32 numbers."""
    import numpy as np

    from ...refimpl.ops.attention import attend
    from ...refimpl.ops.banded import banded_attend
    from ...refimpl.ops.flash import flash_attend
    from ...refimpl.ops.linear_attention import elu_features, linear_attend
    from ...refimpl.ops.lstm import lstm
    from ...refimpl.ops.sparse import bigbird_layout, listed, sparse_attend

    def drawn(*shape: int) -> np.ndarray:
        return np.random.default_rng(0).standard_normal(shape, np.float32)

    def on(f: Callable[[np.ndarray, np.ndarray, np.ndarray], Any]) -> Callable[[int], Callable[[], Any]]:
        def make(n: int) -> Callable[[], Any]:
            q, k, v = drawn(3, 1, n, 1, WIDTH)
            return lambda: f(q, k, v)

        return make

    def sparse(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> Any:
        blocks = np.arange(q.shape[1] // BLOCK)
        chosen = np.random.default_rng(0).integers(0, len(blocks), (len(blocks), 2))
        rows, columns = listed(bigbird_layout(blocks, blocks, chosen, reach=1, first=1))
        q, k, v = (a.reshape(1, -1, BLOCK, 1, WIDTH) for a in (q, k, v))
        return sparse_attend(q, k, v, rows, columns)

    def recurrent(n: int) -> Callable[[], Any]:
        x, wx, wh = drawn(1, n, WIDTH), drawn(WIDTH, 4 * WIDTH), drawn(WIDTH, 4 * WIDTH)
        return lambda: lstm(x, wx * WIDTH**-0.5, wh * WIDTH**-0.5)

    one = lambda n: 1  # noqa: E731
    return {
        "plain": Kind(on(attend), one, one),
        # Tiles of queries go side by side, those of keys one after the other.
        "flash": Kind(on(lambda *qkv: flash_attend(*qkv, tile=TILE)), lambda n: ceil(n / TILE), one),
        "window": Kind(
            on(lambda *qkv: banded_attend(*qkv, band=WINDOW)), one, lambda n: ceil((n - 1) / (WINDOW - 1))
        ),
        # From the first block, which all see and which sees all.
        "sparse": Kind(on(sparse), one, lambda n: 2),
        "linear": Kind(
            on(lambda q, k, v: linear_attend(elu_features(q), elu_features(k), v)), one, one
        ),
        "lstm": Kind(recurrent, lambda n: n, lambda n: n),
    }  # fmt: skip


def measure(lengths: Sequence[int], seconds: float) -> dict[str, dict[str, Any]]:
    """Kind -> seconds and bytes at each length, as far as time and memory carried, and their exponents."""
    from ...runtime.hardware import memory

    found: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + seconds
    every = kinds()
    for name, kind in reversed(every.items()):  # the dearest come last and get what the others leave
        until = time.monotonic() + max(0, end - time.monotonic()) / (len(every) - len(found))
        spent, peaks, took = [], [], 0.0
        for n in lengths:
            # Nothing here grows faster than the square, and a length at most doubles the one before.
            large = bool(peaks) and 4 * peaks[-1] > 0.8 * (memory() or float("inf"))
            if large or (spent and time.monotonic() + 4 * took > until):
                say(f"{name} ends before {n} tokens: {'memory' if large else 'time'} would run out")
                break
            begin = time.monotonic()
            call = kind.make(n)
            peaks.append(peak(call))
            spent.append(user_time(call))
            took = time.monotonic() - begin
            say(f"{name}, {n} tokens: {spent[-1]:.3g} s, {size(peaks[-1])}")
        done = lengths[: len(spent)]
        found[name] = {
            "seconds": spent,
            "bytes": peaks,
            "time_exponent": exponent(done, spent),
            "memory_exponent": exponent(done, peaks),
            "steps": [kind.steps(n) for n in done],
            "path": [kind.path(n) for n in done],
        }
    return {name: found[name] for name in every}


def peak(call: Callable[[], Any]) -> int:
    """The most bytes that a call holds at once, its result included."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def user_time(call: Callable[[], Any]) -> float:
    """Seconds of computing a call: fresh memory is paid as system time, by the page, and isn't counted."""
    begin, calls, spent = os.times().user, 0, 0.0
    while spent < LEAST:
        call()
        calls, spent = calls + 1, os.times().user - begin
    return spent / calls


def exponent(lengths: Sequence[int], values: Sequence[float]) -> float | None:
    """The slope of log value over log length in the upper half; None for fewer than two lengths."""
    upper = slice(len(lengths) // 2, None)
    return slope([*map(log, lengths[upper])], [*map(log, values[upper])]) if len(lengths) > 2 else None


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line with the least squares."""
    import numpy as np

    return float(np.polyfit(x, y, 1)[0])


def dependence(distances: Sequence[int]) -> dict[str, Any]:
    """How much the last output of n tokens changes with the first input, for an LSTM and for attention.

    |y(x + hd) − y(x − hd)| / 2h along a random direction d, root mean square over eight texts. Weights
    are of size 1/sqrt(width), the LSTM's forget gate is biased by 1 as usual. None stands for less than
    the difference can tell from rounding.
    """
    import numpy as np

    from ...refimpl.ops.attention import attend
    from ...refimpl.ops.lstm import lstm

    rng = np.random.default_rng(0)
    wx, wh = rng.standard_normal((2, WIDTH, 4 * WIDTH)) * WIDTH**-0.5
    wq, wk, wv = rng.standard_normal((3, WIDTH, WIDTH)) * WIDTH**-0.5
    bias = np.repeat([0.0, 1.0, 0.0, 0.0], WIDTH)
    heads = lambda a, w: (a @ w)[:, :, None]  # noqa: E731
    last = {
        "lstm": lambda x: lstm(x, wx, wh, bias)[1],
        "attention": lambda x: attend(heads(x[:, -1:], wq), heads(x, wk), heads(x, wv)),
    }
    found: dict[str, Any] = {"n": list(distances), "lstm": [], "attention": []}
    for n in distances:
        x, change = rng.standard_normal((8, n, WIDTH)), np.zeros((8, n, WIDTH))
        direction = rng.standard_normal((8, WIDTH))
        change[:, 0] = STEP * direction / np.linalg.norm(direction, axis=1, keepdims=True)
        for name, f in last.items():
            moved = (f(x + change) - f(x - change)) / (2 * STEP)
            value = float(np.sqrt(np.sum(moved**2) / 8))
            found[name].append(value if value > NOISE else None)
    clear = [(n, log(v)) for n, v in zip(distances, found["lstm"], strict=True) if v is not None]
    found["lstm_a_token"] = float(np.exp(slope([n for n, _ in clear], [v for _, v in clear])))
    found["attention_exponent"] = slope([*map(log, distances)], [*map(log, found["attention"])])
    return found


def picture(figure: Figure, lengths: Sequence[int], rows: dict[str, Any], carried: dict[str, Any]) -> None:
    """Time, memory and dependence, each on logarithmic axes."""
    left, middle, right = figure.subplots(1, 3)
    for axes, what in ((left, "seconds"), (middle, "bytes")):
        for name, row in rows.items():
            fit = row["time_exponent" if what == "seconds" else "memory_exponent"]
            axes.loglog(lengths[: len(row[what])], row[what], "o-", label=f"{name}: {shown(fit)}")
        axes.set(xlabel="tokens N", ylabel=what)
        axes.legend(title="exponent")
    for name in ("lstm", "attention"):
        right.loglog(
            carried["n"], [float("nan") if v is None else v for v in carried[name]], "o-", label=name
        )
    right.set(xlabel="tokens N", ylabel="change of the last output by the first input")
    right.legend()

"""`tfm-cli scaling`: the cost of attention and an LSTM by the length of a text, and how far back each
reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options as o
from ..console import out, out_json, say, size, table
from ..plot import Plot, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...runtime.analysis.scaling import Dependence, Growth, Sample, Stopped

GROUP = "Look inside"


def command(
    max_n: Annotated[
        int, typer.Option("--max-n", min=1024, max=2**20, help="The longest text, in tokens.")
    ] = 16_384,
    seconds: Annotated[
        float, typer.Option(min=1, help="About how long it may take; slow kinds stop at shorter texts.")
    ] = 90,
    plot: Plot = None,
    as_json: o.AsJson = False,
) -> None:
    """Measure time and memory of attention and of an LSTM by text length, and how far back each reaches.

    Example: tfm-cli scaling --max-n 4096 --plot scaling.png
    """
    o.limit_threads(1)  # so that time is work done
    from ...runtime.analysis import scaling

    lengths = sorted({max(1, round(max_n / 2**i / scaling.TILE)) * scaling.TILE for i in range(8)})
    growth = scaling.measure(lengths, seconds, tell)
    dependence = scaling.dependence([n for n in scaling.DISTANCES if n <= max_n])
    if plot is not None:
        draw(plot, 15, 5, lambda figure: picture(figure, lengths, growth, dependence))
    if as_json:
        about = {
            "lengths": lengths,
            "width": scaling.WIDTH,
            "window": scaling.WINDOW,
            "tile": scaling.TILE,
            "block": scaling.BLOCK,
        }
        by_kind = {name: asdict(one) for name, one in growth.items()}
        out_json({**about, "kinds": by_kind, "dependence": asdict(dependence)})
        return
    table(
        ("KIND", "TIME ~ N^", "MEMORY ~ N^", "UP TO N", "SECONDS", "MEMORY", "STEPS IN A ROW", "PATH"),
        [
            (name, shown(g.time_exponent), shown(g.memory_exponent), lengths[len(g.seconds) - 1],
             f"{g.seconds[-1]:.3g}", size(g.bytes[-1]), g.steps[-1], g.path[-1])
            for name, g in growth.items()
        ],
    )  # fmt: skip
    out("exponents are fitted over the upper half of N; steps and path are at the longest N\n")
    table(
        ("N", "LSTM", "ATTENTION"),
        [
            (n, *(f"< {scaling.NOISE:g}" if v is None else f"{v:.3g}" for v in pair))
            for n, *pair in zip(dependence.n, dependence.lstm, dependence.attention, strict=True)
        ],
    )
    out("change of the last output by a change of the first input (central difference, float64)")
    out(f"LSTM: x {dependence.lstm_a_token:.3f} a token; attention: ~ N^{dependence.attention_exponent:.2f}")


def tell(name: str, tokens: int, sample: Sample | Stopped) -> None:
    """Progress in words."""
    if isinstance(sample, str):
        say(f"{name} ends before {tokens} tokens: {sample} would run out")
    else:
        say(f"{name}, {tokens} tokens: {sample.seconds:.3g} s, {size(sample.bytes)}")


def shown(exponent: float | None) -> str:
    """An exponent for the table."""
    return "too short" if exponent is None else f"{exponent:.2f}"


def picture(
    figure: Figure, lengths: Sequence[int], growth: dict[str, Growth], dependence: Dependence
) -> None:
    """Time, memory and dependence, each on logarithmic axes."""
    left, middle, right = figure.subplots(1, 3)
    for name, one in growth.items():
        measured = lengths[: len(one.seconds)]
        left.loglog(measured, one.seconds, "o-", label=f"{name}: {shown(one.time_exponent)}")
        middle.loglog(measured, one.bytes, "o-", label=f"{name}: {shown(one.memory_exponent)}")
    for axes, label in ((left, "seconds"), (middle, "bytes")):
        axes.set(xlabel="tokens N", ylabel=label)
        axes.legend(title="exponent")
    for name, values in (("lstm", dependence.lstm), ("attention", dependence.attention)):
        right.loglog(dependence.n, [float("nan") if v is None else v for v in values], "o-", label=name)
    right.set(xlabel="tokens N", ylabel="change of the last output by the first input")
    right.legend()

"""The command `tfm-cli scaling`, which measures costs, and how far back attention and an LSTM reach.

The costs are the time and memory of attention and recurrences by text length, of ring attention by number of
processes, and of a softmax over many words.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import options as o
from ..console import out, out_json, progress, say, size, table
from ..plot import Plot, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...export.ring_cost import RingCost
    from ...runtime.analysis.scaling import Dependence, Fit, Growth
    from ...runtime.analysis.word_softmax import SoftmaxCost

GROUP = "Look inside"
RINGS = (1, 2, 4)  # processes
RING_TOKENS = 2048
RING_SHARE = 1 / 3  # of all seconds: most of it is the start of processes
PROCESS_BYTES = 400e6  # that a process of a ring may need, torch included


class Section(StrEnum):
    """A part of the measurement that `--section` selects."""

    LENGTH = "length"
    RING = "ring"
    WORDS = "words"
    REACH = "reach"


def command(
    max_n: Annotated[
        int, typer.Option("--max-n", min=1024, max=2**20, help="The longest text to measure, in tokens.")
    ] = 16_384,
    seconds: Annotated[
        float,
        typer.Option(
            min=1,
            help="The approximate time for all measurements together, in seconds. tfm leaves out "
            "measurements that don't fit in this time.",
        ),
    ] = 90,
    section: Annotated[
        list[Section] | None,
        typer.Option(
            help="Run only this part of the measurements. May be given several times. length measures time "
            "and memory by text length. ring measures ring attention in 1, 2 and 4 processes. words "
            "measures a full and an adaptive softmax over 100,000 words. reach measures how far back "
            "an input still changes the output.",
        ),
    ] = None,
    plot: Plot = None,
    as_json: o.AsJson = False,
) -> None:
    """Measure how the time and memory of attention and of recurrences grow with the length of a text.

    The command also measures how far back an input still changes the output, ring attention, and an adaptive
    softmax.

    Example: tfm-cli scaling --section length --max-n 4096 --seconds 30 --plot scaling.png
    """
    o.limit_threads(1)  # so that time is work done
    from ...runtime.analysis import scaling

    sections = set(section or Section)
    if plot is not None and not sections & {Section.LENGTH, Section.REACH}:
        raise typer.BadParameter(
            "--plot draws only the sections `length` and `reach`: add `length` or `reach`"
        )
    until = time.monotonic() + seconds
    # What is bounded comes first: the lengths use all time that is left.
    distances = [n for n in scaling.DISTANCES if n <= max_n]
    dependence = scaling.dependence(distances) if Section.REACH in sections else None
    words = measure_words(until) if Section.WORDS in sections else None
    ring = measure_ring(seconds * RING_SHARE) if Section.RING in sections else None
    lengths = scaling.lengths_up_to(max_n)
    growth = scaling.measure(lengths, until, progress()) if Section.LENGTH in sections else None
    say_stopped(lengths, growth or {})
    if plot is not None:
        draw(plot, 15, 5, lambda figure: picture(figure, lengths, growth, dependence))
    if as_json:
        out_json(as_object(lengths, growth, ring, words, dependence))
        return
    if growth is not None:
        show_growth(lengths, growth)
    if ring is not None:
        show_ring(ring)
    if words is not None:
        show_words(words)
    if dependence is not None:
        show_dependence(dependence)


def measure_words(until: float) -> dict[str, SoftmaxCost] | None:
    """Measure the costs of a full and an adaptive softmax. Returns None if they don't fit into memory."""
    from ...runtime import hardware
    from ...runtime.analysis import word_softmax

    free = hardware.memory()
    if free is not None and word_softmax.needed_bytes(word_softmax.WORDS) > 0.8 * free:
        say(f"a softmax over {word_softmax.WORDS:,} words isn't measured, because memory would run out")
        return None
    return word_softmax.softmax_costs(word_softmax.WORDS, until)


def measure_ring(seconds: float) -> list[RingCost] | None:
    """Measure the cost of each ring that fits into memory and into the time limit.

    Returns None if no ring fits, or if torch is missing.
    """
    if find_spec("torch") is None:
        say("ring attention isn't measured, because torch is missing: pip install 'tfm-cli[export]'")
        return None
    from ...export.ring_cost import ring_cost
    from ...runtime import hardware

    until, costs = time.monotonic() + seconds, []
    show, stage = progress(), f"ring attention in {', '.join(map(str, RINGS))} processes"
    show(stage, 0, len(RINGS))
    for processes in RINGS:
        cost, lacking = None, "time"
        if processes * PROCESS_BYTES > 0.8 * (hardware.memory() or float("inf")):
            lacking = "memory"
        else:
            cost = ring_cost(processes, RING_TOKENS, until - time.monotonic())
        if cost is None:
            say(f"a ring of {processes} processes isn't measured, because {lacking} would run out")
            break
        costs.append(cost)
        show(stage, len(costs), len(RINGS))
    return costs or None


def say_stopped(lengths: Sequence[int], growth: dict[str, Growth]) -> None:
    """Print which measurements end before the longest text, and why."""
    for name, one in growth.items():
        if one.stopped is not None:
            say(
                f"{name} isn't measured at {lengths[len(one.seconds)]} tokens and more, because "
                f"{one.stopped} would run out"
            )


def as_object(
    lengths: Sequence[int],
    growth: dict[str, Growth] | None,
    ring: Sequence[RingCost] | None,
    words: dict[str, SoftmaxCost] | None,
    dependence: Dependence | None,
) -> dict[str, Any]:
    """Return all measurements as one object for JSON."""
    from ...runtime.analysis import scaling, word_softmax

    told: dict[str, Any] = {}
    if growth is not None:
        told |= {"lengths": lengths, "width": scaling.WIDTH, "window": scaling.WINDOW}
        told |= {"tile": scaling.TILE, "block": scaling.BLOCK}
        told["kinds"] = {
            name: {
                "seconds": one.seconds,
                "bytes": one.bytes,
                "kept_bytes": one.kept,
                **fitted("time", one.time),
                **fitted("memory", one.memory),
                "steps": one.steps,
                "path": one.path,
                "stopped": one.stopped,
            }
            for name, one in growth.items()
        }
    if ring is not None:
        told["ring"] = {"tokens": RING_TOKENS, "rings": [asdict(one) for one in ring]}
    if words is not None:
        about = {"words": word_softmax.WORDS, "width": word_softmax.WIDTH, "tokens": word_softmax.TOKENS}
        told["softmax"] = about | {name: asdict(one) for name, one in words.items()}
    if dependence is not None:
        told["dependence"] = asdict(dependence)
    return told


def fitted(what: str, fit: Fit | None) -> dict[str, Any]:
    """Describe a fitted power law: its exponent, the exponent's interval, and the lengths that were used for
    the fit.
    """
    if fit is None:
        return dict.fromkeys((f"{what}_exponent", f"{what}_interval", f"{what}_fitted"))
    interval, lengths = [fit.low, fit.high], [fit.first, fit.last]
    return {f"{what}_exponent": fit.exponent, f"{what}_interval": interval, f"{what}_fitted": lengths}


def show_growth(lengths: Sequence[int], growth: dict[str, Growth]) -> None:
    """Print the cost of each kind of layer by text length."""
    from ...runtime.analysis.scaling import WIDTH

    out(f"Cost by text length N: one head of width {WIDTH}, float32, one thread\n")
    table(
        ("KIND", "TIME ~ N^", "MEMORY ~ N^", "FITTED TO N", "UP TO N", "SECONDS", "MEMORY", "KEPT", "STEPS",
         "PATH"),
        [
            (name, shown(g.time), shown(g.memory), f"{g.time.first} to {g.time.last}" if g.time else "",
             lengths[len(g.seconds) - 1], f"{g.seconds[-1]:.3g}", size(g.bytes[-1]), size(g.kept[-1]),
             g.steps[-1], g.path[-1])
            for name, g in growth.items()
        ],
    )  # fmt: skip
    out(
        "\n± is the 95 % interval of the fit. SECONDS are medians. KEPT is the memory that a text's next "
        "token needs.\nSTEPS counts the steps that can't run in parallel. PATH counts the layers or steps "
        "from the first input to the last output.\nSTEPS and PATH are those at the longest N.\n"
    )


def show_ring(ring: Sequence[RingCost]) -> None:
    """Print the cost of ring attention by the number of processes."""
    from ...runtime.hardware import affinity, cores

    out(f"Ring attention: {RING_TOKENS} tokens over processes of one thread, on {cores(affinity())} cores\n")
    table(
        ("PROCESSES", "TOKENS A PROCESS", "SECONDS", "OF COMPUTING", "MEMORY A PROCESS"),
        [
            (
                one.processes,
                one.tokens_a_rank,
                f"{one.seconds:.3g}",
                f"{one.computing_s:.3g}",
                "unknown" if one.bytes_a_rank is None else size(one.bytes_a_rank),
            )
            for one in ring
        ],
    )
    out()


def show_words(words: dict[str, SoftmaxCost]) -> None:
    """Print the costs of a full and an adaptive softmax."""
    from ...runtime.analysis.word_softmax import TOKENS, WIDTH, WORDS

    out(
        f"log p of {TOKENS} next words, each from a vector of width {WIDTH}. The {WORDS:,} words follow "
        "Zipf's law\n"
    )
    table(
        ("SOFTMAX", "PARAMETERS", "SECONDS", "MEMORY"),
        [(name, f"{one.parameters:,}", f"{one.seconds:.3g}", size(one.bytes)) for name, one in words.items()],
    )
    faster = words["full"].seconds / words["adaptive"].seconds
    out(f"\nthe adaptive softmax is {faster:.3g} times faster\n")


def show_dependence(dependence: Dependence) -> None:
    """Print how far back the LSTM and attention reach."""
    from ...runtime.analysis.scaling import NOISE

    out(
        "Reach: how much the last output changes when the first input changes (central difference, float64)\n"
    )
    table(
        ("N", "LSTM", "ATTENTION"),
        [
            (n, *(f"< {NOISE:g}" if v is None else f"{v:.3g}" for v in pair))
            for n, *pair in zip(dependence.n, dependence.lstm, dependence.attention, strict=True)
        ],
    )
    out(
        f"\nLSTM: the change is multiplied by {dependence.lstm_a_token:.3f} with each token. Attention: the "
        f"change is proportional to N^{dependence.attention_exponent:.2f}."
    )


def shown(fit: Fit | None) -> str:
    """Format an exponent for the table."""
    return "too short" if fit is None else f"{fit.exponent:.2f} ± {fit.high - fit.exponent:.2f}"


def picture(
    figure: Figure, lengths: Sequence[int], growth: dict[str, Growth] | None, dependence: Dependence | None
) -> None:
    """Draw time and memory by text length, and the dependence on earlier inputs by distance, on logarithmic
    axes.
    """
    axes = iter(figure.subplots(1, 2 * (growth is not None) + (dependence is not None), squeeze=False)[0])
    if growth is not None:
        for label, pick in (
            ("seconds", lambda one: (one.seconds, one.time)),
            ("bytes", lambda one: (one.bytes, one.memory)),
        ):
            panel = next(axes)
            for name, one in growth.items():
                values, fit = pick(one)
                panel.loglog(lengths[: len(values)], values, "o-", label=f"{name}: {shown(fit)}")
            panel.set(xlabel="tokens N", ylabel=label)
            panel.legend(title="exponent")
    if dependence is not None:
        panel = next(axes)
        for name, values in (("lstm", dependence.lstm), ("attention", dependence.attention)):
            panel.loglog(dependence.n, [float("nan") if v is None else v for v in values], "o-", label=name)
        panel.set(xlabel="tokens N", ylabel="change of the last output by the first input")
        panel.legend()

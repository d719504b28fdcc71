"""The command `tfm-cli context`, which measures perplexity beyond the trained length."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options as o
from ..console import out, out_json, progress, say, table
from ..plot import Plot, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...runtime.analysis.perplexity import Comparison

TEXT_BYTES = 2**24

GROUP = "Look inside"


def command(
    model: Annotated[
        str,
        typer.Argument(
            autocompletion=o.catalogue,
            help="The model to measure, which must be a decoder: a checkpoint, a bundle, or the name of a "
            "model to fetch.",
        ),
    ],
    text: Annotated[
        Path,
        typer.Option(
            exists=True, dir_okay=False, metavar="FILE", help="The text file that the model will read."
        ),
    ],
    length: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="N",
            help="The number of tokens in a window of the text. The default is twice "
            "the model's trained length.",
        ),
    ] = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="The number of tokens from the start of one window to the start of the next. By default, "
            "windows don't overlap.",
        ),
    ] = None,
    windows: Annotated[
        int, typer.Option(metavar="N", min=1, help="The maximum number of windows of the text to read.")
    ] = 1,
    factor: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="The factor by which to stretch rotary positions. By default, tfm uses the smallest "
            "factor that reaches --length.",
        ),
    ] = None,
    way: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WAY",
            help="Measure only this way to stretch rotary positions: none, linear, dynamic-ntk, yarn or "
            "llama3. May be given several times. If the model already stretches its positions, this "
            "option stretches the positions further.",
        ),
    ] = None,
    plot: Plot = None,
    adapter: o.Adapter = None,
    no_adapter: o.NoAdapter = False,
    ignore_key: o.IgnoreKey = None,
    as_json: o.AsJson = False,
) -> None:
    """Measure a model's perplexity beyond its trained length, for each way to stretch rotary positions.

    A lower perplexity is better. A perplexity of 20 means that the model is as uncertain as in a choice among
    20 equally likely tokens.

    Example: tfm-cli context smollm2-135m --text book.txt --length 4096 --way yarn --plot context.png
    """
    from ...refimpl.checkpoint.formats.file_bytes import read_file
    from ...refimpl.checkpoint.open import materialize
    from ...refimpl.config import Decoder
    from ...refimpl.errors import ConfigError, LimitError
    from ...runtime.analysis import perplexity
    from ..model_loading import specified

    config, lazy, tokenizer = specified(model, o.adapter_choice(adapter, no_adapter), ignore_key or ())
    if not isinstance(config, Decoder):
        raise ConfigError("`context` needs a decoder without an encoder, and this model has an encoder")
    try:
        ids = tokenizer.encode(read_file(text, TEXT_BYTES).decode(), add_special_tokens=False).ids
    except UnicodeDecodeError:
        raise LimitError(f"{text}: must be UTF-8") from None
    trained, begin = config.context, perplexity.before_text(tokenizer)
    length = min(length or 2 * trained, len(begin) + len(ids))
    past = length > trained or factor is not None
    factor = factor or max(1.0, length / trained)
    room = length - len(begin)
    starts = list(range(0, len(ids) - room + 1, stride or length))[:windows]
    if room < 2:
        raise LimitError(f"the text must have at least 2 tokens, but it has {len(ids)}")
    every = perplexity.ways(config, length, factor)
    if unknown := sorted(set(way or ()) - every.keys()):
        raise typer.BadParameter(
            f"--way must be one of {', '.join(every)} for this model, got {unknown[0]!r:.60}"
        )
    chosen = {name: changed for name, changed in every.items() if not way or name in way}
    same = perplexity.same_positions(chosen, length)
    if not past and not way and len(chosen) > 1:
        raise LimitError(
            f"every --way gives the same positions for {length} tokens: give a --text and a --length of more "
            f"than {trained} tokens, a --factor, or --way none to read the text without stretching"
        )
    if not past:
        say(
            f"nothing past the trained length of {trained} tokens is read, because the text or --length has "
            f"only {length} tokens"
        )
    say_same(same, length)
    windows_of_ids = [begin + ids[start : start + room] for start in starts]
    found = perplexity.compare(chosen, same, materialize(lazy), windows_of_ids, trained, progress())
    if plot is not None:
        draw(plot, 9, 5, lambda figure: picture(figure, found))
    if as_json:
        sizes = {"trained": trained, "length": length, "factor": factor, "windows": len(starts)}
        out_json({"model": model, **sizes, **as_object(found)})
        return
    show(found)
    if length > trained:
        best = min(found.by_way, key=lambda name: found.by_way[name].past or float("inf"))
        of_best = found.by_way[best]
        out(
            f"trained for {trained} tokens, stretched x {factor:g}; beyond {trained} tokens, --way {best} "
            f"has the lowest perplexity: {of_best.past:.4g} (within {trained} tokens: {of_best.within:.4g})"
        )


def as_object(found: Comparison) -> dict[str, object]:
    """Return the comparison as one object for JSON.

    If two ways to stretch positions give the same rotations, both have the same figures.
    """
    by_way = {name: found.by_way[first] for name, first in found.same.items()}
    return {
        "edges": found.edges,
        "perplexity": {name: one.parts for name, one in by_way.items()},
        "within": {name: one.within for name, one in by_way.items()},
        "past": {name: one.past for name, one in by_way.items()},
        "same_as": {name: first for name, first in found.same.items() if name != first},
    }


def show(found: Comparison) -> None:
    """Print a table with a row for each range of positions, and a column for each computed way to stretch
    positions.
    """
    table(
        ("PERPLEXITY AT", *(name.upper() for name in found.by_way), ""),
        [
            (
                f"{start} to {end - 1}",
                *(f"{one.parts[i]:.4g}" for one in found.by_way.values()),
                "" if start < found.trained else "past",
            )
            for i, (start, end) in enumerate(pairwise(found.edges))
        ],
    )


def say_same(same: Mapping[str, str], length: int) -> None:
    """Print which ways to stretch rotary positions were left out. Each of them gives the same positions as
    another way, so its figures would be the same.
    """
    for first in dict.fromkeys(same.values()):
        others = [name for name, other in same.items() if other == first != name]
        if others:
            say(
                f"not computed, because up to {length} tokens the positions are the same as with --way "
                f"{first}: {', '.join(others)}"
            )


def picture(figure: Figure, found: Comparison) -> None:
    """Draw perplexity by position, with one line for each way to stretch positions."""
    axes = figure.subplots()
    middles = [(start + end) / 2 for start, end in pairwise(found.edges)]
    for name, one in found.by_way.items():
        axes.semilogy(middles, one.parts, "o-", label=name)
    axes.axvline(found.trained, color="gray", linestyle="--", label="trained length")
    axes.set(xlabel="position", ylabel="perplexity")
    axes.legend()

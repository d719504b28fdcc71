"""`tfm-cli attention`: attention weights of a model's heads in a text."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options as o
from ..console import escape, out, out_json, progress, table
from ..plot import Plot, draw

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from ...refimpl.tokenizers.tokenizer import Encoding
    from ...runtime.analysis.attention import View

TEXT = "The animal didn't cross the street because it was too tired"
TOKENS = 1024
WIDE = 24  # nobody reads a table of more columns

GROUP = "Look inside"


def command(
    text: Annotated[str, typer.Argument(help="The text.")] = TEXT,
    model: o.Model = "smollm2-135m",
    layer: Annotated[
        int | None, typer.Option(min=0, help="Only this layer, counted from 0; else the mean of all.")
    ] = None,
    head: Annotated[
        int | None, typer.Option(min=0, help="Only this head, counted from 0; else the mean of all.")
    ] = None,
    word: Annotated[
        str | None,
        typer.Option(
            metavar="WORD", help="Show what this word attends to; by default “it”, or the last word."
        ),
    ] = None,
    plot: Plot = None,
    adapter: o.Adapter = None,
    no_adapter: o.NoAdapter = False,
    as_json: o.AsJson = False,
) -> None:
    """Show attention weights, computed by the specification: which token attends to which.

    Example: tfm-cli attention "The cat saw it run" --layer 3 --plot map.png
    """
    import numpy as np

    from ...refimpl.config import Decoder
    from ...refimpl.engine.attention_maps import attention_maps
    from ...refimpl.errors import LimitError
    from ...runtime.analysis.attention import chosen_heads, subject, view_of, words_of
    from ...runtime.progress import tracked
    from ..model_loading import specified

    config, params, tokenizer = specified(model, o.adapter_choice(adapter, no_adapter))
    stack = next(iter(config.stacks.values()))
    layers, heads = len(stack.layers), min(layer.attention.heads for layer in stack.layers)
    for name, number, count in (("layer", layer, layers), ("head", head, heads)):
        if number is not None and number >= count:
            raise typer.BadParameter(f"--{name} must be below {count}, got {number}")
    encoding = tokenizer.encode(text)
    limit = min(TOKENS, config.context)
    if not 1 <= len(encoding.ids) <= limit:
        raise LimitError(f"the text must have 1 to {limit} tokens, it has {len(encoding.ids)}")
    words = words_of(text, encoding)
    try:
        index = subject(words, word)
    except LimitError as error:
        raise typer.BadParameter(str(error)) from None
    maps = attention_maps(config, params, np.array(encoding.ids))
    maps = tracked(maps, layers, "computing attention weights", progress())
    weights = chosen_heads(maps, layer, head)
    mean = np.mean([*weights.values()], axis=0)
    view = view_of(words, index, weights, decoder=isinstance(config, Decoder))
    if plot is not None:
        draw(plot, 8, 7, lambda figure: picture(figure, labels(text, encoding), mean))
    if as_json:
        tokens = [
            {"id": i, "piece": piece, "start": start, "end": end}
            for i, piece, (start, end) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
        ]
        about = {"model": model, "layer": layer, "head": head, "text": text}
        out_json({**about, "tokens": tokens, "weights": mean.tolist(), **asdict(view)})
        return
    if len(encoding.ids) <= WIDE:
        table(
            ("%", "", *map(str, range(len(encoding.ids)))),
            [
                (i, label, *(round(100 * weight) for weight in row))
                for i, (label, row) in enumerate(zip(labels(text, encoding), mean.tolist(), strict=True))
            ],
        )
        out()
    table(
        ("LOOKS AT", "SHARE", "MOST BY", "SHARE"),
        [
            (
                seen.word,
                f"{seen.share:.1%}",
                f"layer {seen.strongest.layer} head {seen.strongest.head}",
                f"{seen.strongest.share:.1%}",
            )
            for seen in view.looks_at[:8]
        ],
    )
    out(sentence(view))


def labels(text: str, encoding: Encoding) -> list[str]:
    """The characters of each token, or its piece where it has none."""
    pairs = zip(encoding.tokens, encoding.offsets, strict=True)
    return [escape(text[start:end].strip() or piece) for piece, (start, end) in pairs]


def sentence(view: View) -> str:
    """The view in words."""
    most = "sees no other word"
    if view.looks_at:
        first = view.looks_at[0]
        most = f"looks most at “{escape(first.word)}”, {first.share:.1%}"
    return (
        f"“{escape(view.word)}” {most}; {view.itself:.1%} stay with itself, "
        f"{view.resting:.1%} rest on the first or a special token"
    )


def picture(figure: Figure, names: list[str], weights: np.ndarray) -> None:
    """A heat map, query by key."""
    axes = figure.subplots()
    image = axes.imshow(weights, vmin=0, cmap="viridis")
    step = max(1, len(names) // 60)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(0, len(names), step), names[::step], parse_math=False)
    axes.tick_params("x", rotation=90)
    axes.set(xlabel="key", ylabel="query")
    figure.colorbar(image)

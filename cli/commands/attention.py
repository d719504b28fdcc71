"""The command `tfm-cli attention`, which shows the attention weights of a model's heads in a text."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options as o
from ..console import escape, out, out_json, progress, say, shorten, table
from ..plot import Plot, draw

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from ...refimpl.checkpoint.tokenizers.tokenizer import Encoding
    from ...runtime.analysis.attention import Heads, Seen, View

TEXT = "The animal didn't cross the street because it was too tired"
TOKENS = 1024
WIDE = 24  # nobody reads a table of more columns

GROUP = "Look inside"


def command(
    text: Annotated[str, typer.Argument(help="The text for which to show the attention weights.")] = TEXT,
    model: o.Model = "smollm2-135m",
    layer: Annotated[
        int | None,
        typer.Option(
            min=0, help="Show only this layer, counted from 0. By default, show the mean of all layers."
        ),
    ] = None,
    head: Annotated[
        int | None,
        typer.Option(
            min=0, help="Show only this head, counted from 0. By default, show the mean of all heads."
        ),
    ] = None,
    word: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="Show which words this word attends to. The default is the word “it” if the text contains "
            "“it”, and otherwise the last word.",
        ),
    ] = None,
    plot: Plot = None,
    adapter: o.Adapter = None,
    no_adapter: o.NoAdapter = False,
    ignore_key: o.IgnoreKey = None,
    as_json: o.AsJson = False,
) -> None:
    """Show attention weights: how much each token of a text attends to every other token.

    tfm computes the weights with its reference implementation in NumPy.

    Example: tfm-cli attention "The cat saw it run" --layer 3 --plot map.png
    """
    import numpy as np

    from ...refimpl.config import Decoder
    from ...refimpl.errors import LimitError
    from ...runtime.analysis.attention import chosen_heads, subject, view_of, words_of
    from ..inputs import refuse_piped
    from ..model_loading import specified

    refuse_piped("text")
    config, params, tokenizer = specified(model, o.adapter_choice(adapter, no_adapter), ignore_key or ())
    stack = next(iter(config.stacks.values()))
    layers, heads = len(stack.layers), min((a.heads for a in stack.attentions), default=0)
    for name, number, count in (("layer", layer, layers), ("head", head, heads)):
        if number is not None and number >= count:
            raise typer.BadParameter(f"--{name} must be below {count}, got {number}")
    encoding = tokenizer.encode(text)
    limit = min(TOKENS, config.context)
    if not 1 <= len(encoding.ids) <= limit:
        raise LimitError(f"the text must have 1 to {limit} tokens, but it has {len(encoding.ids)}")
    words = words_of(text, encoding)
    try:
        index = subject(words, word)
    except LimitError as error:
        raise typer.BadParameter(str(error)) from None
    report = partial(progress(), "computing attention weights")
    weights = chosen_heads(config, params, encoding.ids, layer, head, report)
    mean = np.mean([*weights.values()], axis=0)
    view = view_of(words, index, weights, decoder=isinstance(config, Decoder))
    names, title = labels(text, encoding), f"Attention of {model}, {which_heads(layer, head, weights)}"
    if plot is not None:
        draw(plot, 8, 7, lambda figure: picture(figure, title, names, mean))
    if as_json:
        tokens = [
            {"id": i, "piece": piece, "start": start, "end": end}
            for i, piece, (start, end) in zip(encoding.ids, encoding.tokens, encoding.offsets, strict=True)
        ]
        about = {"model": model, "layer": layer, "head": head, "text": text}
        out_json({**about, "tokens": tokens, "weights": mean.tolist(), **asdict(view)})
        return
    out(f"{escape(title)}: “{escape(shorten(text))}”\n")
    if len(names) <= WIDE:
        show_weights(names, mean)
    else:
        say(f"a table of {len(names)} tokens is too wide to print: add --plot FILE or --json")
    show_view(view)


def labels(text: str, encoding: Encoding) -> list[str]:
    """Return a label for each token: the token's characters in the text, or the token's piece in the
    vocabulary if it covers no characters.
    """
    pairs = zip(encoding.tokens, encoding.offsets, strict=True)
    return [escape(text[start:end].strip() or piece) for piece, (start, end) in pairs]


def which_heads(layer: int | None, head: int | None, weights: Heads) -> str:
    """Describe which layers and heads the shown mean is taken over."""
    match layer, head:
        case None, None:
            return f"mean of {len(weights)} heads in {len({at for at, _ in weights})} layers"
        case None, _:
            return f"head {head}, mean of {len(weights)} layers"
        case _, None:
            return f"layer {layer}, mean of {len(weights)} heads"
        case _:
            return f"layer {layer}, head {head}"


def show_weights(names: list[str], weights: np.ndarray) -> None:
    """Print the attention weights as a table in percent.

    The first token's column is set apart. Weights of tokens that a query can't see are left blank.
    """
    percent = [["" if w == 0 else f"{100 * w:.0f}" for w in row] for row in weights.tolist()]
    table(
        ("%", "", f"{0:>3}", "|", *(f"{i:>3}" for i in range(1, len(names)))),
        [
            (i, name, f"{row[0]:>3}", "|", *(f"{cell:>3}" for cell in row[1:]))
            for i, (name, row) in enumerate(zip(names, percent, strict=True))
        ],
    )
    if len(names) > 1:
        share = f"{weights[1:, 0].mean():.0%}"
        out("\nA row's token attends to the columns' tokens. The first token's column is set apart, because")
        out(f"later tokens give it {share} on average: heads that find nothing use it (attention sink).")
    out()


def show_view(view: View) -> None:
    """Print the words to which a word attends, with each word's mean share and the head that attends to it
    most.
    """
    word = escape(view.word)
    if not view.looks_at:
        out(f"“{word}” sees no other word; {rest(view)}")
        return
    table(
        (f"“{word}” LOOKS AT", "ON AVERAGE", "THE HEAD THAT LOOKS AT IT MOST"),
        [(seen.word, f"{seen.share:.1%}", head_of(seen)) for seen in view.looks_at[:8]],
    )
    first = view.looks_at[0]
    out(f"\n“{word}” looks most at “{escape(first.word)}”, {first.share:.1%}; {rest(view)}")


def head_of(seen: Seen) -> str:
    """Describe the head that attends most to a word, and the head's share."""
    strongest = seen.strongest
    return f"layer {strongest.layer}, head {strongest.head}, {strongest.share:.1%}"


def rest(view: View) -> str:
    """Describe where the rest of a word's attention goes: to the word itself, or to the first or special
    tokens.
    """
    return f"{view.itself:.1%} stays on itself, {view.resting:.1%} goes to the first or a special token"


def picture(figure: Figure, title: str, names: list[str], weights: np.ndarray) -> None:
    """Draw the attention weights as a heat map with a row per query and a column per key.

    The first key has its own colour scale, because all other keys would look dark on a common scale.
    """
    step = max(1, len(names) // 60)
    parts = [slice(0, 1), slice(1, None)][: len(names)]
    widths = [1, min(len(names) - 1, 20)][: len(parts)]
    figure.suptitle(escape(title), parse_math=False)
    for axes, part in zip(
        figure.subplots(1, len(parts), squeeze=False, width_ratios=widths)[0], parts, strict=True
    ):
        image = axes.imshow(weights[:, part], vmin=0, cmap="viridis", aspect="auto")
        keys = names[part]
        axes.xaxis.set_ticks(range(0, len(keys), step), keys[::step], parse_math=False)
        axes.tick_params("x", rotation=90)
        axes.yaxis.set_ticks(range(0, len(names), step), names[::step], parse_math=False)
        axes.set(xlabel="key", ylabel="query" if part.start == 0 else "")
        figure.colorbar(image)

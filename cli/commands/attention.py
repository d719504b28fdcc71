"""`tfm-cli attention`: where a model's heads look in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import options as o
from ..console import escape, out, out_json, say, table
from ..plot import Plot, draw

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from ...refimpl.tokenizers.tokenizer import Encoding

TEXT = "The animal didn't cross the street because it was too tired"
WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")
TOKENS = 1024
WIDE = 24  # a table of more columns is no longer read


def command(
    text: Annotated[str, typer.Argument(help="The text.")] = TEXT,
    model: o.Model = "smollm2-135m",
    layer: Annotated[int | None, typer.Option(min=0, help="One layer, from 0; else their average.")] = None,
    head: Annotated[int | None, typer.Option(min=0, help="One head, from 0; else their average.")] = None,
    word: Annotated[
        str | None, typer.Option(metavar="WORD", help="Whose view is told; else “it”, or the last word.")
    ] = None,
    plot: Plot = None,
    as_json: o.AsJson = False,
) -> None:
    """Attention weights by the specification: who looks at whom, and at what one word looks most."""
    import numpy as np

    from ...refimpl.engine.attention_maps import attention_maps
    from ...refimpl.errors import LimitError
    from ..model_loading import specified

    config, params, tokenizer = specified(model)
    stack = config.decoder if config.encoder is None else config.encoder
    assert stack is not None
    layers, heads = len(stack.layers), min(layer.attention.heads for layer in stack.layers)
    for name, given, count in (("layer", layer, layers), ("head", head, heads)):
        if given is not None and given >= count:
            raise typer.BadParameter(f"--{name} must be below {count}, got {given}")
    made = tokenizer.encode(text)
    limit = min(TOKENS, config.context)
    if not 1 <= len(made.ids) <= limit:
        raise LimitError(f"the text must have 1 to {limit} tokens, it has {len(made.ids)}")
    words = words_of(text, made)
    asked = subject(words, word)
    found = kept(attention_maps(config, params, np.array(made.ids)), layer, head, layers)
    chosen = np.mean([*found.values()], axis=0)
    told = look(words, asked, found, rests=config.encoder is None)
    about = {"model": model, "layer": layer, "head": head, "text": text}
    if plot is not None:
        draw(plot, 8, 7, lambda figure: picture(figure, labels(text, made), chosen))
    if as_json:
        tokens = [
            {"id": i, "piece": p, "start": a, "end": b}
            for i, p, (a, b) in zip(made.ids, made.pieces, made.offsets, strict=True)
        ]
        out_json({**about, "tokens": tokens, "weights": chosen.tolist(), **told})
        return
    if len(made.ids) <= WIDE:
        table(
            ("%", "", *map(str, range(len(made.ids)))),
            [
                (i, label, *(round(100 * weight) for weight in row))
                for i, (label, row) in enumerate(zip(labels(text, made), chosen.tolist(), strict=True))
            ],
        )
        out()
    table(
        ("LOOKS AT", "SHARE", "MOST BY", "SHARE"),
        [
            (
                w["word"],
                f"{w['share']:.1%}",
                "layer {layer} head {head}".format(**most),
                f"{most['share']:.1%}",
            )
            for w in told["looks_at"][:8]
            for most in [w["strongest"]]
        ],
    )
    out(sentence(told))


def labels(text: str, made: Encoding) -> list[str]:
    """What each token stands for; its piece where that is nothing of the text."""
    cut = (text[a:b].strip() or piece for piece, (a, b) in zip(made.pieces, made.offsets, strict=True))
    return [escape(label) for label in cut]


def words_of(text: str, made: Encoding) -> list[tuple[str, list[int]]]:
    """The words of a text in order, each with its tokens; what is no word, each token by itself."""
    spans = [(found.start(), found.end()) for found in WORD.finditer(text)]
    found: dict[Any, tuple[str, list[int]]] = {}
    for i, (piece, (start, end)) in enumerate(zip(made.pieces, made.offsets, strict=True)):
        own = text[start:end]
        first = start + len(own) - len(own.lstrip())
        span = next((span for span in spans if span[0] <= first < min(span[1], end)), None)
        word = (own or piece) if span is None else text[slice(*span)]
        found.setdefault(span or i, (word, []))[1].append(i)
    return list(found.values())


def subject(words: list[tuple[str, list[int]]], asked: str | None) -> int:
    """Which word is told about: the last one that was asked for, the last "it", or the last of all."""
    for wanted in ("it",) if asked is None else (asked,):
        if found := [i for i, (word, _) in enumerate(words) if word.lower() == wanted.lower()]:
            return found[-1]
    if asked is not None:
        raise typer.BadParameter(f"the text must have the word {asked!r:.60}")
    return max((i for i, (word, _) in enumerate(words) if WORD.fullmatch(word)), default=len(words) - 1)


def kept(
    maps: Iterator[np.ndarray], layer: int | None, head: int | None, layers: int
) -> dict[tuple[int, int], np.ndarray]:
    """The weights [T, T] of the heads that are asked for, by layer and head; later layers don't run."""
    found = {}
    for i, weights in zip(range(layers if layer is None else layer + 1), maps, strict=False):
        if layer in (None, i):
            found |= {(i, h): own for h, own in enumerate(weights) if head in (None, h)}
        if i % 10 == 9:
            say(f"layer {i + 1} of {layers}")
    return found


def look(
    words: list[tuple[str, list[int]]], asked: int, heads: dict[tuple[int, int], np.ndarray], *, rests: bool
) -> dict[str, Any]:
    """At which other words a word looks on average, and by which head most; what goes elsewhere.

    A word's view is the mean over its tokens, and keys of one word are summed. Heads that a text gives
    nothing to do rest: on the tokens put around it, and where `rests` on its first.
    """
    name, rows = words[asked]
    views = {at: [float(own[rows][:, keys].sum(1).mean()) for _, keys in words] for at, own in heads.items()}
    shares = [sum(view[i] for view in views.values()) / len(views) for i in range(len(words))]
    added = {i for i, (word, _) in enumerate(words) if not WORD.fullmatch(word) and not word.isspace()}
    resting = added | ({0} if rests else set())
    told = []
    for i, (word, keys) in enumerate(words):
        if i != asked and i not in resting and word[0].isalnum() and shares[i] > 0:
            layer, head = max(views, key=lambda at: views[at][i])
            most = {"layer": layer, "head": head, "share": views[layer, head][i]}
            told.append({"word": word, "token": keys[0], "share": shares[i], "strongest": most})
    return {
        "word": name,
        "looks_at": sorted(told, key=lambda one: -one["share"]),
        "itself": shares[asked],
        "resting": sum(shares[i] for i in resting - {asked}),
    }


def sentence(told: dict[str, Any]) -> str:
    first = next(iter(told["looks_at"]), None)
    most = f"looks most at “{escape(first['word'])}”, {first['share']:.1%}" if first else "sees no other word"
    return (
        f"“{escape(told['word'])}” {most}; {told['itself']:.1%} stay with itself, "
        f"{told['resting']:.1%} rest on the first or a special token"
    )


def picture(figure: Figure, names: list[str], weights: np.ndarray) -> None:
    """A heat map, query by key."""
    axes = figure.subplots()
    shown = axes.imshow(weights, vmin=0, cmap="viridis")
    step = max(1, len(names) // 60)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(0, len(names), step), names[::step], parse_math=False)
    axes.tick_params("x", rotation=90)
    axes.set(xlabel="key", ylabel="query")
    figure.colorbar(shown)

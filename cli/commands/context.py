"""`tfm-cli context`: how well a model reads past the length that it was trained for."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import options as o
from ..console import out, out_json, say, table
from ..plot import Plot, draw

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from ...refimpl.config import Config, Rope, Scaling
    from ...refimpl.tokenizers.tokenizer import Tokenizer

TEXT_BYTES = 2**24
CHUNK = 256  # tokens a step: logits of all of them are held
PARTS = 8  # rows of the table up to the trained length, and past it


def command(
    model: Annotated[str, typer.Argument(help="A decoder: a checkpoint, a bundle, or a name to fetch.")],
    text: Annotated[Path, typer.Option(exists=True, dir_okay=False, metavar="FILE", help="What it reads.")],
    length: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Tokens read at once; twice the trained length.")
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Tokens from one window's start to the next's; N.")
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="The most windows of the text.")] = 1,
    factor: Annotated[
        float | None, typer.Option(min=1, help="How far to stretch; as far as the length needs it.")
    ] = None,
    way: Annotated[
        list[str] | None, typer.Option(metavar="WAY", help="Only this way to stretch; may be repeated.")
    ] = None,
    plot: Plot = None,
    as_json: o.AsJson = False,
) -> None:
    """Perplexity by position past the trained length, for each way to stretch the model's positions."""
    from ...refimpl.checkpoint.open import materialize
    from ...refimpl.errors import ConfigError, LimitError
    from ...refimpl.formats.mapped_file import read_file
    from ..model_loading import specified

    config, lazy, tokenizer = specified(model)
    if config.decoder is None or config.encoder is not None:
        raise ConfigError("perplexity is of a decoder alone, this model has an encoder")
    try:
        ids = tokenizer.encode(read_file(text, TEXT_BYTES).decode(), special=False).ids
    except UnicodeDecodeError:
        raise LimitError(f"{text}: must be UTF-8") from None
    trained, begin = config.context, before(tokenizer)
    length = min(length or 2 * trained, len(begin) + len(ids))
    if length <= trained and factor is None:
        say(f"nothing past the trained length of {trained} is read: the text or --length is {length} tokens")
    factor = factor or max(1.0, length / trained)
    room = length - len(begin)
    starts = list(range(0, len(ids) - room + 1, stride or length))[:windows]
    if room < 2:
        raise LimitError(f"the text must have at least 2 tokens, it has {len(ids)}")
    every = ways(config, length, factor)
    if unknown := sorted(set(way or ()) - every.keys()):
        raise typer.BadParameter(f"this model's ways are {', '.join(every)}, got {unknown[0]!r:.60}")
    params = materialize(lazy)
    found = {
        name: losses(name, changed, params, [begin + ids[s : s + room] for s in starts])
        for name, changed in every.items()
        if not way or name in way
    }
    edges = parts(trained, length)
    told = {
        "model": model, "trained": trained, "length": length, "factor": factor, "windows": len(starts),
        "edges": edges,
        "perplexity": {
            name: [perplexity(lost[:, a:b]) for a, b in pairwise(edges)]
            for name, lost in found.items()
        },
        "within": {name: perplexity(lost[:, :trained]) for name, lost in found.items()},
        "past": {name: perplexity(lost[:, trained:]) for name, lost in found.items()},
    }  # fmt: skip
    if plot is not None:
        draw(plot, 9, 5, lambda figure: picture(figure, told))
    if as_json:
        out_json(told)
        return
    spans = [(f"{a} to {b - 1}", i) for i, (a, b) in enumerate(pairwise(edges))]
    rows = [
        (
            span,
            *(f"{values[i]:.4g}" for values in told["perplexity"].values()),
            "" if edges[i] < trained else "past",
        )
        for span, i in spans
    ]
    table(("PERPLEXITY AT", *(name.upper() for name in found), ""), rows)
    if length > trained:
        best = min(found, key=lambda name: told["past"][name])
        out(f"trained for {trained} tokens, stretched x {factor:g}; past them best is {best}, "
            f"{told['past'][best]:.4g} (before: {told['within'][best]:.4g})")  # fmt: skip


def before(tokenizer: Tokenizer) -> list[int]:
    """What the tokenizer puts before a text, which each window begins with."""
    bare, full = (tokenizer.encode("a", special=special).ids for special in (False, True))
    at = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    return full[:at]


def ways(config: Config, length: int, factor: float) -> dict[str, Config]:
    """Name -> the model made for `length` tokens, its rotary positions stretched in one way.

    Rotary positions that are scaled already can only be scaled further in their own way. Positions of
    other kinds go on by themselves; learned ones don't, which the Config says.
    """
    from ...refimpl.config import DynamicNTK, LinearScaling, Llama3Scaling, Yarn

    longer, trained = replace(config, context=max(length, config.context)), config.context
    found = {"none": longer}
    if any(rope.scaling is None for rope in config.ropes):
        new: dict[str, Scaling] = {
            "linear": LinearScaling(factor),
            "dynamic-ntk": DynamicNTK(factor, trained),
            "yarn": Yarn(factor, trained),
            "llama3": Llama3Scaling(factor, 1.0, 4.0, trained),
        }
        for name, scaling in new.items():
            found[name] = stretched(longer, lambda rope, s=scaling: replace(rope, scaling=rope.scaling or s))
    elif any(isinstance(rope.scaling, LinearScaling | Yarn | Llama3Scaling) for rope in config.ropes):

        def further(rope: Rope) -> Rope:
            own = rope.scaling
            if isinstance(own, LinearScaling | Yarn | Llama3Scaling):
                return replace(rope, scaling=replace(own, factor=own.factor * factor))
            return rope

        found["further"] = stretched(longer, further)
    return found


def stretched(config: Config, change: Callable[[Rope], Rope]) -> Config:
    """The same decoder with other rotary positions."""
    from ...refimpl.config import Rope

    stack = config.decoder
    assert stack is not None
    layers = []
    for layer in stack.layers:
        a = layer.attention
        position = change(a.position) if isinstance(a.position, Rope) else a.position
        layers.append(replace(layer, attention=replace(a, position=position)))
    return replace(config, decoder=replace(stack, layers=tuple(layers)))


def losses(name: str, config: Config, params: Any, rows: Sequence[Sequence[int]]) -> np.ndarray:
    """−log p of the token that follows each position, [windows, length − 1], by the specification."""
    import numpy as np

    from ...refimpl.engine.numpy_engine import NumpyEngine
    from ...runtime.verification.metrics import log_softmax

    engine, last = NumpyEngine(config, params), time.monotonic()
    found = []
    for number, row in enumerate(rows):
        ids, cache, lost = np.array(row), engine.start(), []
        for start in range(0, len(ids) - 1, CHUNK):
            here = ids[start : start + CHUNK][: len(ids) - 1 - start]
            logits, cache = engine.step(here[None], cache, at=np.arange(len(here))[None])
            next_ids = ids[start + 1 : start + 1 + len(here)]
            lost.append(-log_softmax(logits[0])[np.arange(len(here)), next_ids])
            if time.monotonic() - last >= 2:
                last = time.monotonic()
                say(f"{name}: window {number + 1} of {len(rows)}, {start + len(here)} of {len(ids)} tokens")
        found.append(np.concatenate(lost))
    return np.stack(found)


def parts(trained: int, length: int) -> list[int]:
    """Edges of equal parts of the positions, the trained length being one of them."""
    import numpy as np

    last = length - 1  # the last token is only told
    inner = np.linspace(0, min(trained, last), PARTS + 1)
    outer = np.linspace(min(trained, last), last, PARTS + 1)
    return sorted({round(float(edge)) for edge in (*inner, *outer)})


def perplexity(lost: np.ndarray) -> float | None:
    """exp of the mean; None of nothing."""
    import numpy as np

    return float(np.exp(min(lost.mean(), 700.0))) if lost.size else None  # e^700 is near float64's end


def picture(figure: Figure, told: dict[str, Any]) -> None:
    """Perplexity by position, a line a way."""
    axes, edges = figure.subplots(), told["edges"]
    middles = [(a + b) / 2 for a, b in pairwise(edges)]
    for name, values in told["perplexity"].items():
        axes.semilogy(middles, values, "o-", label=name)
    axes.axvline(told["trained"], color="gray", linestyle="--", label="trained length")
    axes.set(xlabel="position", ylabel="perplexity")
    axes.legend()

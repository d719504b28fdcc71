"""The command `tfm-cli compare`, which compares a model's quantizations by loss, bytes and speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options as o
from ..console import markdown_table, out, out_json, progress, say, size, table
from ..plot import Plot, draw

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...runtime.analysis.frontier import Point

GROUP = "Make and check models"
BITS = (5.0, 6.0)  # of auto, where nothing else is asked for


def command(
    model: Annotated[
        str,
        typer.Argument(
            autocompletion=o.catalogue,
            help="The model to compare in its quantizations: the path of a "
            "checkpoint, or a name that `tfm-cli models` lists.",
        ),
    ],
    quant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SCHEME",
            help="Compare this quantization. May be given several times. By default, tfm compares all "
            "quantizations that run on this machine.",
        ),
    ] = None,
    bits: Annotated[
        list[float] | None,
        typer.Option(
            metavar="N",
            min=1,
            help="The maximum number of bits per weight, on average, of the quantization auto. May be given "
            "several times. By default, tfm compares auto with 5 bits and with 6 bits.",
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="A text file on which tfm measures the loss of each quantization. The default is a short "
            "text that comes with tfm.",
        ),
    ] = None,
    tokens: Annotated[
        int, typer.Option(metavar="N", min=2, help="Read at most N tokens of the text.")
    ] = 1024,
    new_tokens: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="The number of tokens to generate for each measurement of the decode speed.",
        ),
    ] = 64,
    repeats: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="The number of measurements of the speed. Each measurement runs in a new process.",
        ),
    ] = 3,
    threads: o.Threads = None,
    adapter: o.Adapter = None,
    no_adapter: o.NoAdapter = False,
    ignore_key: o.IgnoreKey = None,
    plot: Plot = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """Compare a model's quantizations on this machine by loss, perplexity, size in bytes and speed.

    A quantization is on the frontier if every other quantization reads more bytes per token or has a higher
    loss. tfm's kernels read fewer bytes per token than the bundle's file of weights contains. Other runtimes
    read the whole file.

    tfm keeps bundles and results in the cache. If a run is interrupted, the next run continues at the same
    point.

    Example: tfm-cli compare smollm2-135m --plot frontier.png
    """
    if markdown and as_json:
        raise typer.BadParameter("give --markdown or --json, not both")
    from ...refimpl.config import Decoder
    from ...refimpl.engine.numpy_engine import NumpyEngine
    from ...refimpl.errors import CheckpointError, ExportError, LimitError
    from ...runtime.analysis import frontier
    from ...runtime.bundle.schemes import SCHEMES, find
    from ...runtime.hardware import threads as useful_threads
    from ...runtime.text.tokenizer import read_tokenizer
    from ...runtime.verification.checks.text import DEFAULT_TEXT
    from ..model_loading import bundle, check_packages, locate_weights, opened_at

    check_packages(model)
    source = locate_weights(model, o.adapter_choice(adapter, no_adapter), ignore_key or ())
    if source.kind == "bundle":
        raise CheckpointError(f"{model} must be a checkpoint: a bundle already has one quantization")
    checkpoint = opened_at(source)
    tokenizer = read_tokenizer(checkpoint, checkpoint.config)
    if tokenizer is None:
        raise CheckpointError(f"{model} must have a tokenizer, because `compare` reads a text")
    ids = tokenizer.encode(DEFAULT_TEXT if text is None else text.read_text(encoding="utf-8"))[:tokens]
    if len(ids) < 2:
        raise LimitError(f"the text must have at least 2 tokens, but it has {len(ids)}")
    read_text = frontier.Text(ids, tokenizer.before_text)
    frontier.check(checkpoint.config, read_text, new_tokens)
    reference = NumpyEngine(checkpoint.config, checkpoint.params)
    points: list[Point] = []
    left_out: dict[str, str] = {}
    names = [find(name).name for name in quant or ()] or [
        name for name, scheme in SCHEMES.items() if "ort-cpu" not in scheme.refused
    ]
    wanted = [(name, n) for name in names for n in ((bits or BITS) if name == "auto" else (None,))]
    for done, (name, n) in enumerate(wanted):
        label = name if n is None else f"{name} {n:g} bits"
        progress()(f"comparing {len(wanted)} quantizations: {label}", done, len(wanted))
        try:
            path = bundle(source, name, "cpu", bits=n)
        except ExportError as error:
            left_out[label] = o.with_flags(str(error))
            say(f"{label} isn't compared: {left_out[label]}")
            continue
        count = threads or useful_threads()
        points.append(
            frontier.measure(label, path, reference, read_text, count, new_tokens, repeats, progress())
        )
    if not points:
        raise ExportError(f"{model} can't be exported in any of the quantizations {', '.join(left_out)}")
    best = frontier.frontier(points)
    loss = "KL" if checkpoint.config.head.predicts_tokens else "1 - COSINE"
    if plot is not None:
        draw(plot, 11, 5, lambda figure: picture(figure, model, loss, points, best))
    if as_json:
        rows = [{**asdict(one), "on_frontier": one in best} for one in points]
        out_json({"model": model, "tokens": len(ids), "loss": loss, "points": rows, "left_out": left_out})
        return
    decodes = "DECODE" if isinstance(checkpoint.config, Decoder) else "READ"
    show = markdown_table if markdown else table
    show(
        ("QUANT", "FILE", "READ", loss, "PERPLEXITY", f"{decodes}, TOKENS/S", "PATH", "FRONTIER"),
        [
            (
                one.name,
                size(one.bytes),
                size(one.read_bytes),
                f"{one.loss:.2g}",
                "" if one.perplexity is None else f"{one.perplexity:.2f}",
                f"{one.tokens_per_s:.1f}",
                one.path,
                "yes" if one in best else "",
            )
            for one in points
        ],
    )
    own = points[0].reference_perplexity
    out(f"\nover {len(ids)} tokens" + ("" if own is None else f"; the checkpoint's perplexity is {own:.2f}"))
    out("frontier: no other quantization reads as few bytes and loses less")


def picture(figure: Figure, model: str, loss: str, points: Sequence[Point], best: Sequence[Point]) -> None:
    """Draw the loss by bytes, with the frontier as a line, and the loss by speed."""
    by_bytes, by_speed = figure.subplots(1, 2, sharey=True)
    least = min((one.loss for one in points if one.loss > 0), default=1e-6)

    def height(one: Point) -> float:
        return max(one.loss, least / 2)  # a loss of 0 has no place on a logarithmic axis

    by_bytes.plot(
        [one.read_bytes / 1e6 for one in best], [height(one) for one in best], color="0.7", zorder=1
    )
    for axes, across, name in (
        (by_bytes, [one.read_bytes / 1e6 for one in points], "weights that a token reads, MB"),
        (by_speed, [one.tokens_per_s for one in points], "tokens/s"),
    ):
        axes.scatter(across, [height(one) for one in points], zorder=2)
        for x, one in zip(across, points, strict=True):
            axes.annotate(one.name, (x, height(one)), xytext=(4, 4), textcoords="offset points", fontsize=8)
        axes.set_xlabel(name)
        axes.set_yscale("log")
        axes.margins(0.15)
    by_bytes.set_ylabel("KL divergence, nats a token" if loss == "KL" else "1 - cosine")
    figure.suptitle(f"{model}: what each quantization loses")

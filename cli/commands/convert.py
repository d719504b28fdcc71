"""The command `tfm-cli convert`, which rewrites a bundle for another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import out, say, size
from ..options import LAYOUTS, FixedBatch, FixedCapacity, FixedTime, LayoutName, static_layout

GROUP = "Make and check models"


def command(
    bundle: Annotated[
        str,
        typer.Argument(
            help="The bundle to convert: its path, or the name of a model that has a bundle in the cache."
        ),
    ],
    directory: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="The directory to write to, which must be empty or not exist."),
    ],
    layout: Annotated[
        LayoutName | None, typer.Option(help=f"The runtime that will read the result: {LAYOUTS}.")
    ] = None,
    batch: FixedBatch = None,
    time: FixedTime = None,
    capacity: FixedCapacity = None,
) -> None:
    """Rewrite a bundle for another runtime, or with fixed shapes. The weights stay the same.

    A bundle is a directory with a model in ONNX, which `tfm-cli export` writes.

    Example: tfm-cli convert my-bundle my-genai --layout genai
    """
    from ...export.layouts.convert import convert, find
    from ...runtime.hub.cache_dir import bytes_in
    from ..model_loading import bundle_named

    wanted = static_layout(layout, batch, time, capacity)
    if wanted is None:
        raise typer.BadParameter("give --layout LAYOUT, or --time N to write a graph with fixed shapes")
    source = convert(bundle_named(bundle), directory, wanted)
    say(f"{directory}: {size(bytes_in(directory))}, for {find(wanted).name}")
    if line := find(wanted).left_out(source.generation):
        say(line)
    out(str(directory))

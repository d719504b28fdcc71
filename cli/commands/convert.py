"""`tfm-cli convert`: a bundle in the form of another runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import out, say, size
from ..options import LAYOUTS, LayoutName

GROUP = "Make and check models"


def command(
    bundle: Annotated[
        str, typer.Argument(help="The bundle to convert, or the model whose bundle the cache holds.")
    ],
    directory: Annotated[
        Path, typer.Argument(metavar="OUT", help="The directory to write; it must be empty, or not exist.")
    ],
    layout: Annotated[LayoutName, typer.Option(help=f"The runtime that is to read it: {LAYOUTS}.")],
) -> None:
    """Write a bundle in the form of another runtime, with the same weights.

    Example: tfm-cli convert my-bundle my-genai --layout genai
    """
    from ...export.layouts.convert import convert
    from ..model_loading import bundle_bytes, bundle_named

    convert(bundle_named(bundle), directory, layout)
    say(f"{directory}: {size(bundle_bytes(directory))}, for {layout}")
    out(str(directory))

"""Draw pictures with matplotlib (extra `[plot]`). matplotlib is imported only when a picture is drawn."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .console import in_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")


def ready(path: Path | None) -> Path | None:
    """Check, before the work begins, that a picture can be drawn. Raises an error if the file's type is wrong
    or matplotlib is missing.
    """
    if path is not None:
        if path.suffix not in SUFFIXES:
            raise typer.BadParameter(
                f"a picture's file name must end in {', '.join(SUFFIXES)}, got {path.name!r:.80}"
            )
        if find_spec("matplotlib") is None:  # importing it would bring NumPy, before its threads are set
            raise ModuleNotFoundError("matplotlib", name="matplotlib")
    return in_folder(path)


Plot = Annotated[
    Path | None,
    typer.Option(
        "--plot",
        metavar="FILE.png",
        dir_okay=False,
        callback=ready,
        help="Draw the result as a picture in this file. The file's name must end in .png, .svg or .pdf.",
    ),
]


def draw(path: Path, width: float, height: float, into: Callable[[Figure], None]) -> None:
    """Draw a figure of this size in inches by calling `into`, and write the figure to a file, completely or
    not at all.
    """
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout="constrained")
    image = io.BytesIO()
    into(figure)
    with warnings.catch_warnings():  # the font lacks a character: a box is drawn for it
        warnings.simplefilter("ignore", UserWarning)
        figure.savefig(image, format=path.suffix[1:], dpi=120)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_bytes(image.getvalue())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)

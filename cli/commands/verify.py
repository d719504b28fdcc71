"""`tfm-cli verify`: compares a bundle with the specification."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import progress, table
from ..options import Adapter, NoAdapter, adapter_choice

GROUP = "Make and check models"


def command(
    bundle: Annotated[Path, typer.Argument(help="The bundle to check.")],
    source: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The checkpoint that the bundle was made from.")
    ] = None,
    adapter: Adapter = None,
    no_adapter: NoAdapter = False,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A text to measure KL divergence, agreement and perplexity on."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="Stop after this time; what wasn't checked is recorded.")
    ] = 60,
) -> None:
    """Check a bundle's files, and its results against the specification; exit with 10 if a check fails.

    Example: tfm-cli verify my-bundle --source smollm2-135m
    """
    from ...refimpl.errors import VerifyError
    from ...runtime.hub.locate import locate
    from ...runtime.verification.verify import verify

    choice = adapter_choice(adapter, no_adapter)
    checkpoint = None if source is None else locate(source, progress()).path
    report = verify(
        bundle, source=checkpoint, text=text, seconds=seconds, progress=progress(), adapter=choice
    )
    table(
        ("CHECK", "FIGURE", "BUDGET", "UNIT", "RESULT", "NOTE"),
        [(r.name, shown(r.figure), shown(r.budget), r.unit, r.result, r.note) for r in report.rows],
    )
    if report.failed:
        names = ", ".join(row.name for row in report.failed)
        raise VerifyError(f"{bundle}: out of budget: {names}{divergence(bundle)}")


def divergence(bundle: Path) -> str:
    """Where the graph first differs from the specification, if it can be found on this machine."""
    from ...refimpl.errors import TfmError
    from ...runtime.bundle.bundle import open_bundle
    from ...runtime.verification.golden import load

    try:
        from ...export.diagnose.locate import first, locate

        opened = open_bundle(bundle, check_hashes=True)
        part = first(locate(opened, load(opened.path, opened.config).tokens))
    except (ImportError, TfmError):
        return ""  # onnx or torch isn't installed, or the bundle can't be opened
    if part is None:
        return ""
    note = f" ({part.note})" if part.note else ""
    return f"; first divergence: {part.name}, error {part.error:.2g}, budget {part.budget:.2g}{note}"


def shown(figure: float | str | None) -> str:
    """A figure for the table."""
    if figure is None:
        return ""
    return f"{figure:.4g}" if isinstance(figure, float) else str(figure)

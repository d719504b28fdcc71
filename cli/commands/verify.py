"""`tfm-cli verify`: a bundle against the specification."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..console import say, table

GROUP = "Make and check models"


def command(
    bundle: Annotated[Path, typer.Argument(help="The bundle to check.")],
    source: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The checkpoint that it was made from.")
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Measure KL divergence, agreement and perplexity on this."),
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, help="Stop after this long and record how far it came.")
    ] = 60,
) -> None:
    """Hash every file again and run every check; exit with 10 if anything exceeds its budget."""
    from ...refimpl.errors import VerifyError
    from ...runtime.hub.locate import locate
    from ...runtime.verification.verify import verify

    origin = None if source is None else locate(source, say).path
    report = verify(bundle, source=origin, text=text, seconds=seconds, progress=say)
    table(
        ("CHECK", "FIGURE", "BUDGET", "UNIT", "RESULT", "NOTE"),
        [(r.name, shown(r.figure), shown(r.budget), r.unit, r.result, r.note) for r in report.rows],
    )
    if report.failed:
        bad = ", ".join(row.name for row in report.failed)
        raise VerifyError(f"{bundle}: out of budget: {bad}{divergence(bundle)}")


def divergence(bundle: Path) -> str:
    """The first part of the graph that leaves the specification, where one can be found here."""
    from ...refimpl.errors import TfmError
    from ...runtime.bundle.bundle import open_bundle
    from ...runtime.verification.golden import load

    try:
        from ...export.diagnose.locate import first, locate

        opened = open_bundle(bundle, check_hashes=True)
        part = first(locate(opened, load(opened.path, opened.config).tokens))
    except (ImportError, TfmError):
        return ""  # without onnx and torch, or of a bundle that isn't one, nothing more can be said
    if part is None:
        return ""
    note = f" ({part.note})" if part.note else ""
    return f"; first divergence: {part.name}, error {part.error:.2g}, budget {part.budget:.2g}{note}"


def shown(figure: float | str | None) -> str:
    """A figure as the table has it."""
    return "" if figure is None else f"{figure:.4g}" if isinstance(figure, float) else str(figure)

"""`tfm-cli verify`: a bundle against the specification."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import say, table


def command(
    bundle: Annotated[Path, typer.Argument(help="The bundle to check.")],
    source: Annotated[str | None, typer.Option(metavar="MODEL", help="The checkpoint that it was made from.")] = None,
    text: Annotated[Path | None, typer.Option(metavar="FILE", help="Measure KL divergence, agreement and perplexity on this.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Stop after this long and record how far it came.")] = 60,
) -> None:
    """Re-hash every file, climb the ladder of equivalence, and exit with 10 when anything leaves its budget."""
    from ..refimpl.errors import VerifyError
    from ..runtime.sources import locate
    from ..runtime.verify import verify

    origin = None if source is None else locate(source, say).path
    report = verify(bundle, source=origin, text=text, seconds=seconds, progress=say)
    table(
        ("CHECK", "FIGURE", "BUDGET", "RESULT"),
        [(r.name, r.figure, "" if r.budget is None else r.budget, "ok" if r.ok else "OUT") for r in report.rows],
    )
    if bad := [row.name for row in report.rows if not row.ok]:
        raise VerifyError(f"{bundle}: out of budget: {', '.join(bad)}")

"""The command `tfm-cli verify`, which compares a bundle with the specification."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from ..console import escape, out, out_json, progress, table
from ..options import Adapter, AsJson, NoAdapter, adapter_choice, with_flags

GROUP = "Make and check models"


def command(
    bundle: Annotated[
        str,
        typer.Argument(
            help="The bundle to check: its path, or the name of a model that has a bundle in the cache."
        ),
    ],
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Also run the long checks: predictions over a text, greedy texts, and caches. The long "
            "checks take about two minutes for a model with 135 million parameters. If a run is "
            "interrupted, the next run continues with the interrupted check.",
        ),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Compare the bundle with MODEL, which is the checkpoint that the bundle was made from. "
            "This option also runs the long checks.",
        ),
    ] = None,
    adapter: Adapter = None,
    no_adapter: NoAdapter = False,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Measure KL divergence, agreement and perplexity on the text in this file. This option "
            "also runs the long checks.",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Stop after this many seconds. tfm records the checks that it didn't reach as not run.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a bundle's files, and compare its results with the reference implementation in NumPy.

    The exit code is 10 if a check fails. Without --full, only the quick checks run: files, weights, settings
    of the graphs, and outputs for a few tokens.

    Example: tfm-cli verify my-bundle --full --source smollm2-135m
    """
    from ...refimpl.errors import VerifyError
    from ...runtime.hub.locate import locate
    from ...runtime.verification.verdict import figure, found, used, verdict
    from ...runtime.verification.verify import verify
    from ..model_loading import bundle_named

    path = bundle_named(bundle)
    choice = adapter_choice(adapter, no_adapter)
    checkpoint = None if source is None else locate(source, progress()).path
    report = verify(
        path,
        source=checkpoint,
        text=text,
        seconds=math.inf if seconds is None else seconds,
        progress=progress(),
        full=full,
        adapter=choice,
    )
    if as_json:
        out_json(report.to_json())
    else:
        table(
            ("CHECK", "FOUND", "AT MOST", "USED", "RESULT", "NOTE"),
            [
                (r.name, found(r), figure(r.budget, r.unit), used(r), r.result, with_flags(r.note))
                for r in report.rows
            ],
        )
        out()
        for line in verdict(report):
            out(with_flags(escape(line)))
    if report.failed:
        names = ", ".join(row.name for row in report.failed)
        raise VerifyError(f"{bundle}: the bundle failed these checks: {names}{divergence(path)}")


def divergence(bundle: Path) -> str:
    """Describe where the graph first differs from the specification, if this machine can find the place."""
    from ...refimpl.errors import TfmError
    from ...runtime.bundle.bundle import open_bundle
    from ...runtime.verification.golden import load

    try:
        from ...export.diagnose.locate import first, locate

        opened = open_bundle(bundle, check_hashes=True)
        part = first(locate(opened, load(opened).tokens))
    except (ImportError, TfmError):
        return ""  # onnx or torch isn't installed, or the bundle can't be opened
    if part is None:
        return ""
    note = f" ({part.note})" if part.note else ""
    return f"; first divergence: {part.name}, error {part.error:.2g}, budget {part.budget:.2g}{note}"

"""`tfm-cli export`: a checkpoint as a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .console import out, say
from .options import Quant, Target


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint, or a name to fetch.")],
    directory: Annotated[
        Path, typer.Argument(metavar="OUT", help="The bundle's directory; a bundle there is replaced.")
    ],
    quant: Annotated[Quant, typer.Option(help="How weights are stored.")] = "int8",
    target: Annotated[Target, typer.Option(help="What the bundle is made for.")] = "ort-cpu",
    table: Annotated[int, typer.Option(metavar="4|8", help="Bits of the token table with --quant int4.")] = 8,
    strict: Annotated[
        bool, typer.Option(help="With --quant keep: every matrix must have blocks of its own.")
    ] = False,
    opset: Annotated[int | None, typer.Option(help="ai.onnx operator set; None is the target's own.")] = None,
    verify: Annotated[
        bool, typer.Option(help="Check the bundle against the specification before it is left.")
    ] = True,
) -> None:
    """Write a checkpoint as an ONNX bundle, whole or not at all, and verify it."""
    from ..refimpl.errors import ExportError
    from ..runtime.sources import locate
    from .loading import whole

    source = locate(model, say)
    if source.kind != "checkpoint":
        raise ExportError(f"{model} must be a checkpoint with weights, it is a {source.kind}")
    checkpoint = whole(source.path)
    from ..export.write import export  # seconds of torch, which a bad checkpoint needn't wait for

    export(
        checkpoint,
        directory,
        target=target,
        quant=quant,
        table_bits=table,
        strict=strict,
        opset=opset,
        verify=verify,
        progress=say,
    )
    out(str(directory))

"""`tfm-cli export`: a checkpoint as a bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ..console import out, say
from ..options import Context, Kv, Quant, Ranges, Target

GROUP = "Make and check models"
# How the parameters that the library's errors name are called here.
FLAGS = {
    "quant=": "--quant ",
    "target=": "--target ",
    "kv=": "--kv ",
    "table_bits=": "--table ",
    "table_bits": "--table",
    "strict=True": "--strict",
    "calibration.method": "--ranges",
    "calibration.alpha": "--smooth",
    "calibration goes": "--calibrate goes",
    "calibration:": "--calibrate FILE:",
}
PARAMETERS = re.compile("|".join(rf"\b{re.escape(name)}" for name in FLAGS))


def command(
    model: Annotated[str, typer.Argument(help="A checkpoint, or a name to fetch.")],
    directory: Annotated[
        Path, typer.Argument(metavar="OUT", help="The bundle's directory; a bundle there is replaced.")
    ],
    quant: Annotated[
        Quant | None,
        typer.Option(help="How weights are stored; int8, or int8-dynamic of an encoder alone, by default."),
    ] = None,
    kv: Annotated[
        Kv,
        typer.Option(
            help="How a decoder's keys and values are kept; int8 takes a quarter of the memory, in ranges "
            "that --calibrate, or a text of our own, shows."
        ),
    ] = "float",
    target: Annotated[Target, typer.Option(help="What the bundle is made for.")] = "ort-cpu",
    table: Annotated[int, typer.Option(metavar="4|8", help="Bits of the token table with --quant int4.")] = 8,
    strict: Annotated[
        bool, typer.Option(help="With --quant keep: every matrix must have blocks of its own.")
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A text to take ranges from, for int8-static and --kv int8."),
    ] = None,
    ranges: Annotated[
        Ranges | None, typer.Option(help="With --calibrate: how a range is chosen; minmax by default.")
    ] = None,
    smooth: Annotated[
        float | None,
        typer.Option(metavar="ALPHA", help="With --calibrate: move outliers into the weights (SmoothQuant)."),
    ] = None,
    context: Context = None,
    opset: Annotated[int | None, typer.Option(help="ai.onnx operator set; None is the target's own.")] = None,
    verify: Annotated[
        bool, typer.Option(help="Check the bundle against the specification before it is left.")
    ] = True,
) -> None:
    """Write a checkpoint as an ONNX bundle, whole or not at all, and verify it."""
    from ...refimpl.errors import ExportError
    from ...runtime.hub.locate import locate
    from ..model_loading import open_for_export

    if calibrate is None and (ranges is not None or smooth is not None):
        raise ExportError(f"--{'smooth' if ranges is None else 'ranges'} goes with --calibrate FILE")
    source = locate(model, say)
    if source.kind != "checkpoint":
        raise ExportError(f"{model} must be a checkpoint with weights, it is a {source.kind}")
    checkpoint = open_for_export(source.path, context)
    from ...export.bundle_writer import export  # seconds of torch, which a bad checkpoint needn't wait for
    from ...export.quantization.plan import Calibration

    try:
        calibration = None if calibrate is None else Calibration(calibrate, ranges or "minmax", smooth)
        export(
            checkpoint,
            directory,
            target=target,
            quant=quant,
            kv=kv,
            table_bits=table,
            strict=strict,
            calibration=calibration,
            opset=opset,
            verify=verify,
            progress=say,
        )
    except ExportError as error:
        message = PARAMETERS.sub(lambda parameter: FLAGS[parameter[0]], str(error))
        raise type(error)(message) from None
    out(str(directory))

"""The command `tfm-cli export`, which exports a checkpoint as a bundle."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ..console import out, progress, say, size
from ..options import (
    LAYOUTS,
    SCHEMES,
    WEIGHTS,
    Adapter,
    Context,
    FixedBatch,
    FixedCapacity,
    FixedTime,
    IgnoreKey,
    Kv,
    LayoutName,
    NoAdapter,
    Quant,
    Ranges,
    Target,
    adapter_choice,
    static_layout,
)

GROUP = "Make and check models"


def command(
    model: Annotated[
        str, typer.Argument(help="The model to export: a checkpoint, or the name of a model to fetch.")
    ],
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="The directory to write the bundle to. A bundle that is already in this "
            "directory is replaced by the new bundle.",
        ),
    ],
    quant: Annotated[
        Quant | None,
        typer.Option(
            metavar="SCHEME",
            help=f"The quantization of the weights: {', '.join(SCHEMES)}. The default is int8, or "
            "int8-dynamic for an encoder on the CPU.",
        ),
    ] = None,
    target: Annotated[
        Target,
        typer.Option(
            help="The runtime for which to write the bundle. ort-cpu and ort-cuda are ONNX Runtime on the "
            "CPU and on CUDA. ort-web is ONNX Runtime on WebAssembly. standard uses only standard ONNX "
            "operators (ai.onnx), for any runtime."
        ),
    ] = "ort-cpu",
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE|kl=N",
            help="With --quant auto: the maximum size of the weights, such as 700MB, or the maximum KL "
            "divergence from the checkpoint in nats per token, such as kl=0.01.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    bits: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="With --quant auto: the maximum number of bits per weight on average, such as 4.5.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    kv: Annotated[
        Kv,
        typer.Option(
            help="The format of the keys and values in a decoder's cache. int8 takes a quarter of the "
            "memory of float, and int4 an eighth. tfm refuses int4 if int4 raises the loss by more "
            "than 0.05 nats per token. tfm measures the scales on the text of --calibrate, or on a "
            "text that comes with tfm.",
            rich_help_panel=WEIGHTS,
        ),
    ] = "float",
    table: Annotated[
        int,
        typer.Option(
            metavar="4|8",
            help="With --quant int4: the number of bits of each number in the token embeddings.",
            rich_help_panel=WEIGHTS,
        ),
    ] = 8,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="With --quant keep: refuse a model file if one of its matrices isn't stored in quantized "
            "blocks.",
            rich_help_panel=WEIGHTS,
        ),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="A text file similar to the texts that the model will read. int8-static, w8a16 and --kv "
            "measure the ranges of activations on this text. int4 rounds the weights for the least "
            "error on this text.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    ranges: Annotated[
        Ranges | None,
        typer.Option(
            help="With --calibrate: the method that chooses the range of an activation. The default is "
            "minmax.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    smooth: Annotated[
        float | None,
        typer.Option(
            metavar="ALPHA",
            min=0,
            max=1,
            help="With --calibrate: the strength of SmoothQuant, which moves large activations into the "
            "weights.",
            rich_help_panel=WEIGHTS,
        ),
    ] = None,
    mtp: Annotated[
        bool,
        typer.Option(
            "--mtp",
            help="Also export the checkpoint's module for multi-token prediction, which `generate --draft "
            "mtp` uses. The module costs as much as one more layer. With the module, the last layer's "
            "MLP runs for all tokens of a prompt. Without the module, this MLP runs only for the "
            "tokens that need logits.",
            rich_help_panel=WEIGHTS,
        ),
    ] = False,
    context: Context = None,
    adapter: Adapter = None,
    no_adapter: NoAdapter = False,
    ignore_key: IgnoreKey = None,
    layout: Annotated[
        LayoutName | None,
        typer.Option(
            help=f"Write the bundle in the form of another runtime: {LAYOUTS}. The directory must then be "
            "empty. By default, tfm writes the bundle in its own form."
        ),
    ] = None,
    batch: FixedBatch = None,
    time: FixedTime = None,
    capacity: FixedCapacity = None,
    opset: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="The version (opset) of the standard ONNX operators, ai.onnx. The default "
            "depends on --target.",
        ),
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            help="Run the quick checks on the new bundle, and keep the bundle only if it passes. `tfm-cli "
            "verify --full` runs the long checks."
        ),
    ] = True,
) -> None:
    """Export a checkpoint as an ONNX bundle and verify the bundle.

    If the export or the verification fails, tfm writes no bundle.

    Example: tfm-cli export smollm2-135m my-bundle --quant int4
    """
    from ...refimpl.checkpoint.formats.tensor_source import missing_weights
    from ...refimpl.errors import ExportError
    from ...runtime.hub.cache_dir import bytes_in
    from ...runtime.hub.locate import adapted, ignoring, locate
    from ..model_loading import kept, open_for_export, require_export, say_replaced_code, written

    if calibrate is None and (ranges is not None or smooth is not None):
        flag = "--smooth" if ranges is None else "--ranges"
        raise typer.BadParameter(f"{flag} needs --calibrate FILE")
    if budget is not None and bits is not None:
        raise typer.BadParameter("give --budget or --bits, not both")
    if table not in (4, 8):
        raise typer.BadParameter(f"--table must be 4 or 8 bits, got {table}")
    wanted = static_layout(layout, batch, time, capacity)
    require_export(model)
    source = locate(model, progress())
    if source.kind == "config":
        raise missing_weights(source.path)
    if source.kind != "checkpoint":
        raise ExportError(f"{model} must be a checkpoint with weights, but it is a {source.kind}")
    source = ignoring(adapted(source, adapter_choice(adapter, no_adapter)), ignore_key or ())
    checkpoint = open_for_export(source, context, mtp=mtp)
    say_replaced_code(checkpoint.code_replaced_by)
    from ...export.bundle_writer import export  # seconds of torch, which a bad checkpoint needn't wait for
    from ...export.layouts.convert import converting, find
    from ...export.quantization.plan import Budget, Calibration

    asked = Budget(bits, "bits") if bits is not None else None if budget is None else Budget.of(budget)
    converted = nullcontext(directory)
    if wanted is not None:
        converted = converting(wanted, checkpoint.config.with_kv(kv), target, directory)
    with converted as bundle:
        export(
            checkpoint,
            bundle,
            target=target,
            quant=quant,
            kv=kv,
            table_bits=table,
            strict=strict,
            calibration=None if calibrate is None else Calibration(calibrate, ranges or "minmax", smooth),
            budget=asked,
            opset=opset,
            verify=verify,
            progress=progress(),
        )
        if quant == "keep":
            say(kept(bundle, checkpoint.files.values()))
        if wanted is None:
            say(written(bundle))
    if wanted is not None:
        form = f"for {find(wanted).name}{', verified' if verify else ''}"
        say(f"{directory}: {size(bytes_in(directory))}, {form}")
        if line := find(wanted).left_out(checkpoint.generation):
            say(line)
    out(str(directory))

"""The command `tfm-cli report`, which writes the results of `verify` as an HTML page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..console import in_folder, out, progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...runtime.bundle.bundle import Bundle
    from ...runtime.progress import Progress
    from ..report_page import LayerError

GROUP = "Make and check models"
PROMPT_TOKENS, NEW_TOKENS, RUNS = 128, 64, 3


def command(
    bundle: Annotated[
        str,
        typer.Argument(
            help="The bundle to report on: its path, or the name of a model that has a bundle in the cache."
        ),
    ],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="OUT.html",
            dir_okay=False,
            callback=in_folder,
            help="The HTML file to write. The file must not exist yet, unless you give --overwrite.",
        ),
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the HTML file if it already exists.")
    ] = False,
    speed: Annotated[
        bool,
        typer.Option(
            help="Measure the speed and memory of the bundle for the page. The "
            "measurements run in separate processes."
        ),
    ] = True,
) -> None:
    """Write an HTML page with a bundle's verdict, error by layer, perplexity, texts, sizes and speed.

    The command itself runs only the quick checks. It takes the results of the long checks from the bundle's
    certificate. To write these results into the certificate, first run
    `tfm-cli verify BUNDLE --full --source MODEL`.

    Example: tfm-cli report my-bundle report.html
    """
    from ...refimpl.errors import VerifyError
    from ...runtime.bundle.bundle import open_bundle
    from ...runtime.verification.verify import verify
    from ..model_loading import bundle_named
    from ..report_page import Facts, page

    if file.exists() and not overwrite:
        raise typer.BadParameter(f"{file} exists: choose another name, or add --overwrite")
    show, path = progress(), bundle_named(bundle)
    report = verify(path, progress=show)
    opened = open_bundle(path)
    show("comparing layer by layer", 0, 0)
    layers = _layers(opened)
    speeds = _speed(opened, show) if speed else "left out by --no-speed"
    _write(file, page(report, Facts(layers, _sizes(opened), speeds, _machine())))
    out(str(file))
    if report.failed:
        names = ", ".join(row.name for row in report.failed)
        raise VerifyError(f"{bundle}: the bundle failed these checks: {names}")


def _layers(bundle: Bundle) -> Sequence[LayerError] | str:
    """Return each layer's part with the largest error, or a text that says why the errors are unknown."""
    from ...refimpl.errors import TfmError
    from ...runtime.verification.golden import load
    from ..report_page import LayerError

    try:
        from ...export.diagnose.locate import locate

        parts = locate(bundle, load(bundle).tokens)
    except ImportError as error:
        return f"it needs {error.name}: pip install 'tfm-cli[export]'"
    except TfmError as error:
        return str(error)
    worst: dict[str, LayerError] = {}
    for part in parts:
        layer = part.name.split(",")[0].removeprefix("layer ")
        share = part.error / part.budget if part.budget else float(part.error > 0) * 2
        if layer not in worst or not share <= worst[layer].share:
            worst[layer] = LayerError(layer, share, part.name)
    return list(worst.values()) or "this graph can't be taken apart"


def _sizes(bundle: Bundle) -> list[tuple[str, int]]:
    from ...runtime.analysis import sizes
    from ...runtime.hub.cache_dir import bytes_in

    total = bytes_in(bundle.path)
    parameters = sum(sizes.parameters(bundle.config).values())
    return [
        ("the bundle, all files", total),
        (f"its {parameters:,} parameters as 32-bit floats", 4 * parameters),
        ("the same as 16-bit floats", 2 * parameters),
    ]


def _speed(bundle: Bundle, progress: Progress) -> list[tuple[str, str]] | str:
    """Return the median speed and memory of a few runs, or a text that says why they weren't measured."""
    from ...refimpl.config import LM, Decoder
    from ...refimpl.errors import TfmError
    from ...runtime import hardware
    from ...runtime.analysis.speed import compare

    if not (isinstance(bundle.config, Decoder) and isinstance(bundle.config.head, LM)):
        return "speed is measured only for models that continue a text"
    prompt_tokens = min(PROMPT_TOKENS, bundle.config.context - NEW_TOKENS)
    if prompt_tokens < 1:
        return f"the context of {bundle.config.context} tokens is too short"
    threads = [hardware.threads()]
    try:
        (speed,) = compare(bundle.path, "auto", threads, [prompt_tokens], NEW_TOKENS, RUNS, progress)
    except TfmError as error:
        return str(error)
    peak = speed.peak_rss_mb
    return [
        (f"reading a prompt of {prompt_tokens} tokens", f"{speed.prefill_tokens_per_s.median:.0f} tokens/s"),
        (f"writing {NEW_TOKENS} tokens", f"{speed.decode_tokens_per_s.median:.1f} tokens/s"),
        ("loading", f"{speed.load_s.median:.2f} s"),
        ("from there to the first token", f"{speed.first_token_s.median:.2f} s"),
        ("peak memory", "unknown" if peak is None else f"{peak.median:.0f} MB"),
    ]


def _machine() -> list[str]:
    from ...runtime.verification.certificate import machine, versions

    here = machine()
    return [
        f"{here['system']}, {here['processor']}, {here['threads']} threads",
        f"8-bit integers: {here['int8']}",
        ", ".join(f"{name} {number}" for name, number in versions().items()),
    ]


def _write(file: Path, data: bytes) -> None:
    """Write the file, completely or not at all."""
    new = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        new.write_bytes(data)
        os.replace(new, file)
    finally:
        new.unlink(missing_ok=True)

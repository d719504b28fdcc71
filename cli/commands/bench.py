"""The command `tfm-cli bench`, which measures how fast a model runs on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .. import options as o
from ..console import markdown_table, out, out_json, progress, shorten, size, table

if TYPE_CHECKING:
    from ...runtime.analysis.speed import Setting, Spread
    from ...runtime.bundle.bundle import Bundle
    from ...runtime.hub.model_names import LocatedModel

GROUP = "This machine"
DEFAULT = "smollm2-135m"
Row = Sequence[object]


def command(
    model: Annotated[
        str | None,
        typer.Argument(
            autocompletion=o.catalogue,
            help="The model to measure: a path, pypi:NAME, hf:ORG/NAME, or a name that "
            f"`tfm-cli models` lists. The default is {DEFAULT}.",
        ),
    ] = None,
    model_option: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            autocompletion=o.catalogue,
            help="The model to measure. This option replaces the argument MODEL.",
        ),
    ] = None,
    quant: o.Quantization = None,
    adapter: o.Adapter = None,
    no_adapter: o.NoAdapter = False,
    ignore_key: o.IgnoreKey = None,
    verbose: o.Verbose = False,
    device: o.Device = "cpu",
    threads: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1024,
            help="The number of CPU threads. The default is as many threads as this machine can use. Give "
            "this option several times to compare several numbers of threads.",
            rich_help_panel=o.SPEED,
        ),
    ] = None,
    prompt_tokens: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            min=1,
            help="The number of tokens in the prompt. The default is 128. Give this option several times to "
            "compare several lengths.",
        ),
    ] = None,
    new_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="The number of tokens to generate in each measurement.")
    ] = 128,
    repeats: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="The number of measurements. Each measurement runs in a new process."
        ),
    ] = 5,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    as_json: o.AsJson = False,
) -> None:
    """Measure a model's prefill speed, decode speed, time to the first token, load time and peak memory.

    Example: tfm-cli bench smollm2-135m --prompt-tokens 128 --prompt-tokens 512 --threads 1 --threads 2
    """
    if model is not None and model_option is not None:
        raise typer.BadParameter("give the model as argument or as --model, not both")
    if markdown and as_json:
        raise typer.BadParameter("give --markdown or --json, not both")
    o.limit_threads(max(threads) if threads else None)
    from ...runtime.analysis.speed import compare
    from ...runtime.bundle.bundle import open_bundle
    from ...runtime.hardware import threads as useful_threads
    from ..model_loading import (
        bundle,
        check_catalogue,
        check_device,
        check_packages,
        locate_weights,
        say_replaced_code,
    )

    check_device(device)
    name = model or model_option or DEFAULT
    check_catalogue(name, "generate")
    check_packages(name)
    source = locate_weights(name, o.adapter_choice(adapter, no_adapter), ignore_key or ())
    require_decoder(source)
    path = bundle(source, quant, device)
    opened = open_bundle(path)
    say_replaced_code(opened.code_replaced_by)
    settings = compare(
        path,
        device,
        threads or [useful_threads()],
        prompt_tokens or [128],
        new_tokens,
        repeats,
        progress(),
    )
    if as_json:
        rows = [asdict(setting) for setting in settings]
        out_json(
            {"bundle": str(path), "new_tokens": new_tokens, "repeats": repeats, **rows[0], "settings": rows}
        )
        return
    show = markdown_table if markdown else table
    show(
        ("MODEL", "QUANT", "WEIGHTS", "PARAMETERS", "PATH", "THREADS", "TEST", "TOKENS/S"),
        speed_rows(name, opened, settings, new_tokens),
    )
    out()
    show(
        ("THREADS", "PROMPT", "FIRST TOKEN, S", "LOAD, S", "PEAK MEMORY, MB"),
        [
            (
                s.threads,
                s.prompt_tokens,
                figure(s.first_token_s, 3),
                figure(s.load_s, 3),
                figure(s.peak_rss_mb, 1),
            )
            for s in settings
        ],
    )
    out(
        "\nppN: reading a prompt of N tokens; tgM @ dN: generating M tokens after it; figures: mean ± "
        f"standard deviation of {repeats} runs, each in a new process"
    )


def require_decoder(source: LocatedModel) -> None:
    """Raise ConfigError if the model isn't a decoder, before the model is exported. Only decoders have decode
    steps to measure.
    """
    from ...refimpl.config import Decoder
    from ...refimpl.errors import ConfigError
    from ...runtime.bundle.bundle import open_bundle
    from ..model_loading import opened_at

    is_bundle = source.kind == "bundle"
    opened = open_bundle(source.path) if is_bundle else opened_at(source)
    if not isinstance(opened.config, Decoder):
        raise ConfigError(
            f"bench measures only decoders without an encoder, but {source.name} has an encoder"
        )


def speed_rows(name: str, opened: Bundle, settings: Sequence[Setting], new_tokens: int) -> list[Row]:
    """Return two table rows for each setting, named like the tests of llama-bench."""
    from ...runtime.analysis.sizes import parameters
    from ...runtime.bundle.manifest import DATA

    count = sum(parameters(opened.config).values())
    model = (
        shorten(name, 40),
        opened.quant,
        size(opened.manifest.files[DATA].size),
        f"{count / 1e6:.1f} M" if count < 1e9 else f"{count / 1e9:.2f} B",
    )
    return [
        (*model, setting.path, setting.threads, test, figure(speed))
        for setting in settings
        for test, speed in (
            (f"pp{setting.prompt_tokens}", setting.prefill_tokens_per_s),
            (f"tg{new_tokens} @ d{setting.prompt_tokens}", setting.decode_tokens_per_s),
        )
    ]


def figure(spread: Spread | None, digits: int = 2) -> str:
    """Return "mean ± standard deviation" with `digits` decimals, or only the mean for a single run."""
    if spread is None:
        return "unknown"
    deviation = "" if spread.std is None else f" ± {spread.std:.{digits}f}"
    return f"{spread.mean:.{digits}f}{deviation}"

"""`tfm-cli serve`: models behind the OpenAI API."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ...runtime.serving_defaults import MAX_WAIT_S, PREFIX_BYTES, QUEUE, RESPONSE_BYTES, SLOTS
from .. import options as o
from ..console import out, say

GROUP = "Serve"


def command(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]MODEL",
            autocompletion=o.catalogue,
            help="Paths, pypi:NAME, hf:ORG/NAME, or names that `tfm-cli models` lists; NAME is what requests "
            "call it.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where to listen; another address than this machine's own needs --api-key-file.",
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="A file with keys, one on each line: a request must have one, as Authorization: Bearer KEY.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Another name of this machine, which the Host header may have; several may be given.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="A page's origin, such as http://localhost:3000, whose scripts may ask (CORS); * is any.",
        ),
    ] = None,
    slots: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=1024,
            help="How many texts are generated at a time.",
            rich_help_panel=o.SPEED,
        ),
    ] = SLOTS,
    queue: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="How many requests may wait; more get 429, try again later.",
            rich_help_panel=o.SPEED,
        ),
    ] = QUEUE,
    max_wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="How long a request may wait, judged by the time of earlier answers; one that would "
            "wait longer gets a 429 and when to retry.",
            rich_help_panel=o.SPEED,
        ),
    ] = MAX_WAIT_S,
    models_max: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="How many models are loaded at a time, by default all; a further one replaces the "
            "least recently used.",
            rich_help_panel=o.SPEED,
        ),
    ] = None,
    idle_unload: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            help="Unload a model after so long without a request; the next request loads it again.",
            rich_help_panel=o.SPEED,
        ),
    ] = None,
    on_demand: Annotated[
        bool,
        typer.Option("--on-demand", help="Load models when they are first asked.", rich_help_panel=o.SPEED),
    ] = False,
    pull: Annotated[
        bool,
        typer.Option(
            "--pull",
            help="With --on-demand: fetch a named model when it is first asked for, if it isn't on "
            "this machine. Others are never fetched.",
            rich_help_panel=o.SPEED,
        ),
    ] = False,
    prefix_memory: Annotated[
        int,
        typer.Option(
            metavar="MIB",
            min=0,
            help="Memory for what each model computed of earlier texts: a prompt is read from where "
            "it differs from one of the same key.",
            rich_help_panel=o.SPEED,
        ),
    ] = PREFIX_BYTES // 2**20,
    response_memory: Annotated[
        int,
        typer.Option(
            metavar="MIB",
            min=0,
            help="Memory for the latest answers of /v1/responses, which a request may go on from.",
            rich_help_panel=o.SPEED,
        ),
    ] = RESPONSE_BYTES // 2**20,
    log_json: Annotated[
        bool,
        typer.Option(
            "--log-json",
            help="Write a line of JSON a request to stdout: id, model, tokens, times, status; no text.",
        ),
    ] = False,
    quant: o.Quantization = None,
    ignore_key: o.IgnoreKey = None,
    context: o.Context = None,
    verbose: o.Verbose = False,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    engine: o.Engine = "onnx",
) -> None:
    """Serve models to programs that speak the API of OpenAI or Anthropic: chat, embeddings, rerank, classify.

    Without a MODEL it is smollm2-135m.

    After Ctrl-C or SIGTERM it completes the answers that are being generated, then it ends.

    Example: tfm-cli serve smollm2-135m minilm-l6 --port 8000
    """
    from ...runtime.serve import server as http
    from ...runtime.serve.keys import read_keys

    keys = [] if api_key_file is None else read_keys(api_key_file)
    if not keys and not http.is_loopback(host):
        raise typer.BadParameter(
            f"--host {host} is reachable from other machines: add --api-key-file FILE, or listen at 127.0.0.1"
        )
    from ...runtime.serve.models import Server
    from ...runtime.tasks import Model
    from ..model_loading import is_here, load

    named = [_named(one) for one in models or ["smollm2-135m"]]
    for _, name in named:
        if on_demand and not pull and not is_here(name):
            raise typer.BadParameter(f"{name} isn't on this machine: `tfm-cli pull {name}`, or add --pull")
    if pull and not on_demand:
        raise typer.BadParameter(
            "--pull is for --on-demand: models that are loaded at once are fetched anyway"
        )
    if ignore_key and len(named) > 1:
        raise typer.BadParameter("--ignore-key is for one model: export it with it, and serve its bundle")
    loads: dict[str, partial[Model]] = {}
    settings, ignored = (engine, quant, device, threads, context), ignore_key or ()
    # Two names of one model load it once.
    by_model = {name: partial(load, name, *settings, task=None, ignore_keys=ignored) for _, name in named}
    with http.listen(host, port) as listening:  # before minutes of export: the port may be taken
        for served, name in named:
            if served in loads:
                raise typer.BadParameter(f"two models are named {served}: rename one of them")
            loads[served] = by_model[name]
        server = Server(
            loads,
            models_max=models_max,
            idle_s=idle_unload,
            on_demand=on_demand,
            response_bytes=response_memory * 2**20,
            slots=slots,
            queue=queue,
            max_wait=max_wait,
            prefix_bytes=prefix_memory * 2**20,
        )
        # Said once signals are handled: whoever reads it may send one.
        line = f"serving {', '.join(loads)} at {http.address(listening)}/v1"
        log = out if log_json else None
        names, origins = allowed_host or (), allow_origin or ()
        run = http.http_server(server, host, keys, lambda: say(line), log, names, origins).run
        run(sockets=[listening])


def _named(argument: str) -> tuple[str, str]:
    """The name that requests call a model by, and the model."""
    if Path(argument).exists():
        return Path(argument).name, argument
    name, given, model = argument.partition("=")
    # Two signs belong to the model: pypi:NAME==VERSION.
    return (name, model) if given and not model.startswith("=") else (argument, argument)

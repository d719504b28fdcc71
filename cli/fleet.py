"""Run a command with `--ray`: send the rows of a file in blocks to a Ray cluster, and collect the results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import progress, say
from .inputs import refuse_piped
from .options import Running

ROWS = 1024
FLEET = "Many machines"  # the panel of the help

Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Process the rows of --file (JSON Lines or Parquet) on a Ray cluster. local starts a cluster "
        "on this machine, auto joins the cluster on this machine, and HOST:PORT joins the cluster "
        "there. The bundle's path must be the same on each machine.",
        rich_help_panel=FLEET,
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="DIR",
        file_okay=False,
        help="With --ray: write the results to this folder, with one file per block, in the format of "
        "--file. If a run was interrupted, the same command computes the missing blocks.",
        rich_help_panel=FLEET,
    ),
]
Column = Annotated[
    str,
    typer.Option(
        "--column",
        metavar="NAME",
        help="With --ray: the name of the column of --file that contains the texts.",
        rich_help_panel=FLEET,
    ),
]
Rows = Annotated[
    int,
    typer.Option(
        "--block",
        metavar="N",
        min=1,
        max=2**20,
        help="With --ray: how many texts of the file one worker reads at a time (a block).",
        rich_help_panel=FLEET,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        max=2**16,
        help="With --ray: run at most N processes, by default as many as the cluster has processors for. "
        "Each process uses --threads threads, by default one.",
        rich_help_panel=FLEET,
    ),
]


@dataclass
class Fleet:
    """The options of a command that can process the rows of a file on many machines."""

    ray: Ray = None
    out_dir: Out = None
    column: Column = "text"
    block: Rows = ROWS
    workers: Workers = None

    @property
    def asked(self) -> bool:
        """Whether the user asked to run the command on a cluster."""
        return self.ray is not None or self.out_dir is not None


def on_fleet(
    task: str,
    fleet: Fleet,
    running: Running,
    model: str,
    file: Path | None,
    context: int | None = None,
    *,
    refused: Mapping[str, object],
    options: Mapping[str, Any],
) -> None:
    """Process the rows of a file on a cluster.

    `options` are the keyword arguments of the function that computes the task. `refused` maps the command's
    options that can't be combined with `--ray` to their values. A usage error names such an option if its
    value is set.
    """
    from ..refimpl.errors import ArgumentError
    from ..runtime.bundle.bundle import open_bundle
    from ..runtime.bundle.manifest import MANIFEST
    from ..runtime.fleet.job import Job
    from ..runtime.fleet.pipeline import run
    from ..runtime.fleet.rows import format_of
    from ..runtime.tasks.base import check_task
    from .model_loading import located_bundle

    out, device = fleet.out_dir, running.device
    if fleet.ray is None or file is None or out is None:
        raise typer.BadParameter(
            "--ray ADDRESS, --file IN.jsonl (or IN.parquet) and --out DIR must be given together"
        )
    refuse_piped("rows")
    refused = {**refused, "--engine": running.engine != "onnx"}
    if given := [flag for flag, value in refused.items() if value]:
        raise typer.BadParameter(f"--ray can't be used with {given[0]}")
    if device == "auto":
        raise typer.BadParameter(
            "--ray takes --device cpu or cuda: auto might choose another device on each machine"
        )
    try:
        format_of(file)
    except ArgumentError as error:
        raise typer.BadParameter(str(error)) from None
    if find_spec("ray") is None and not (Path(model) / MANIFEST).is_file():
        # Before a model is fetched and exported. A bundle's folder may be complete, which needs no cluster.
        raise ModuleNotFoundError("No module named 'ray'", name="ray")
    path = located_bundle(
        model, running.quant, device, context,
        task=task, adapter=running.merged, ignore_keys=running.ignore_key or (),
    ).resolve()  # fmt: skip
    opened = open_bundle(path)
    check_task(task, opened.config, opened)
    settings = {**options, "device": device, "threads": running.threads or 1}
    job = Job(task, path, settings, file, fleet.column, fleet.block)
    count, computed = run(job, out, fleet.ray, fleet.workers, progress())
    say(f"{out}: {count:,} rows; this run computed {computed:,} blocks")

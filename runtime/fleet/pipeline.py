"""Compute a job on a cluster: a pool of Ray Data's actors computes the unfinished blocks.

    file -> blocks -> objects of Ray -> actors, a bundle each -> bytes -> a file for each block
            this process                other machines                    this process

Ray keeps the blocks, on disk if memory is short, and gives a block to each actor that becomes free. If an
actor's process or machine fails, Ray starts the actor again elsewhere and computes its blocks again. Only
this process reads the input and writes results. So the machines need no shared file system, only the
bundle at the same path.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...refimpl.errors import ArgumentError, TfmError
from ..progress import Progress, silent
from .cluster import connected
from .compute import ComputeBlock
from .folder import opened
from .job import Job
from .rows import blocks

STAGE = "computing rows"


def run(
    job: Job, out: Path, address: str, workers: int | None = None, progress: Progress = silent
) -> tuple[int, int]:
    """Compute the missing blocks of a job into the folder `out`.

    Returns the number of rows, and the number of blocks that were computed. At most `workers` actors
    compute, by default as many as the cluster has processors for. All rows are read before the first block
    is computed. Raises the errors of `rows.texts`, `folder.opened` and `cluster.connected`. If the model
    can't process a row, its error is raised, and the row's block stays missing.
    """
    with opened(out, job) as folder:
        sizes = [len(block) for block in blocks(job.file, job.column, job.rows)]
        if not sizes:
            raise ArgumentError(f"the file {job.file.name} must have rows, but it has none")
        missing = {number for number in range(len(sizes)) if not folder.has(number)}
        if missing:
            total, done = sum(sizes[number] for number in missing), 0
            with connected(address):
                progress(STAGE, 0, total)
                for number, data in _results(job, missing, workers):
                    folder.write(number, data)
                    done += sizes[number]
                    progress(STAGE, done, total)
        return sum(sizes), len(missing)


def _results(job: Job, missing: set[int], workers: int | None) -> Iterator[tuple[int, bytes]]:
    """Yield (number of the block, results) for each block, in the order in which blocks become complete."""
    import pyarrow
    import ray
    import ray.data
    import ray.exceptions

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars, context.raise_original_map_exception = False, True
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # errors come as exceptions
    threads = job.options["threads"]
    if workers is None:
        workers = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
    workers = min(workers, len(missing))
    parts = enumerate(blocks(job.file, job.column, job.rows))
    tables = (pyarrow.table({"block": [n], "texts": [texts]}) for n, texts in parts if n in missing)
    objects: list[Any] = [ray.put(table) for table in tables]
    computed = ray.data.from_arrow_refs(objects).map_batches(
        ComputeBlock,
        fn_constructor_args=[
            job.task, job.bundle, job.options, job.manifest["bundle"], job.rows, job.format
        ],
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=threads,
        num_gpus=int(job.options["device"] == "cuda"),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
    )  # fmt: skip
    try:
        for row in computed.iter_rows():
            yield row["block"], row["data"]
    except ray.exceptions.RayError as error:
        raise _cause(error) from error


def _cause(error: BaseException) -> BaseException:
    """Return the error that an actor raised, which Ray wraps in its own errors."""
    inner = error
    while cause := getattr(inner, "cause", None) or inner.__cause__:
        inner = cause
    if not isinstance(inner, TfmError):
        return error
    return type(inner)(str(inner).split("\n")[0])  # Ray adds lines of its own

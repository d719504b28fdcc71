"""`tfm-cli bench`: how fast a model is on this machine."""

from __future__ import annotations

from dataclasses import asdict
from statistics import median
from typing import Annotated

import typer

from .. import options as o
from ..console import out, out_json, say, table

GROUP = "This machine"


def command(
    model: o.Model = "smollm2-135m",
    quant: o.Quantization = None,
    adapter: o.Adapter = None,
    no_adapter: o.NoAdapter = False,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    prompt_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens of the prompt.")] = 128,
    new_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens to generate.")] = 128,
    repeats: Annotated[
        int, typer.Option(metavar="N", min=1, help="How often to measure, each time in a new process.")
    ] = 5,
    as_json: o.AsJson = False,
) -> None:
    """Measure prefill and decode speed, time to the first token, load time and peak memory.

    Example: tfm-cli bench --model smollm2-135m --quant int4 --threads 2
    """
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from ...runtime.analysis.speed import measure
    from ..model_loading import bundle, check_device, locate_weights

    check_device(device)
    source = locate_weights(model, o.adapter_choice(adapter, no_adapter))
    path = bundle(source, quant, device)
    # A new process each time: load time and peak memory can't be measured twice in one.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        runs = []
        for i in range(repeats):
            say(f"run {i + 1} of {repeats}")
            runs.append(
                asdict(pool.submit(measure, path, device, threads, prompt_tokens, new_tokens).result())
            )
    figures = {}
    for name in runs[0]:
        values = [run[name] for run in runs]
        if None not in values:
            figures[name] = {"median": median(values), "min": min(values), "max": max(values)}
    if as_json:
        about = {
            "bundle": str(path),
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "repeats": repeats,
        }
        out_json(about | figures)
        return
    table(
        ("MEASURE", "MEDIAN", "MIN", "MAX"),
        [(name, *(f"{v:.4g}" for v in values.values())) for name, values in figures.items()],
    )
    out(f"{prompt_tokens} tokens read, {new_tokens} made, {repeats} processes")

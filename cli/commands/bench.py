"""`tfm-cli bench`: how fast a model is here."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from .. import options as o
from ..console import out, out_json, say, table


def command(
    model: o.Model = "smollm2-135m",
    quant: o.Quantization = None,
    device: o.Device = "cpu",
    threads: o.Threads = None,
    prompt_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens read.")] = 128,
    new_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Tokens made.")] = 128,
    repeats: Annotated[int, typer.Option(metavar="N", min=1, help="Fresh processes to measure in.")] = 5,
    as_json: o.AsJson = False,
) -> None:
    """Measure prefill and decode speed, time to the first token, load time and peak memory."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from ...runtime.hub.model_names import locate
    from ..model_loading import bundle

    place = bundle(locate(model, say), quant, device)
    # A process of its own for each repeat: load time and peak memory have no second first time.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        runs = []
        for i in range(repeats):
            say(f"run {i + 1} of {repeats}")
            runs.append(pool.submit(measure, place, device, threads, prompt_tokens, new_tokens).result())
    found = {
        name: {"median": median(values), "min": min(values), "max": max(values)}
        for name in runs[0]
        if None not in (values := [run[name] for run in runs])
    }
    if as_json:
        about = {
            "bundle": str(place),
            "prompt_tokens": prompt_tokens,
            "new_tokens": new_tokens,
            "repeats": repeats,
        }
        out_json(about | found)
        return
    table(
        ("MEASURE", "MEDIAN", "MIN", "MAX"),
        [(name, *(f"{v:.4g}" for v in values.values())) for name, values in found.items()],
    )
    out(f"{prompt_tokens} tokens read, {new_tokens} made, {repeats} processes")


def measure(
    bundle: Path, device: str, threads: int | None, prompt_tokens: int, new_tokens: int
) -> dict[str, float | None]:
    """One run in this process: load, the first token from cold, then prefill and decode again, warm."""
    import numpy as np

    from ...refimpl.decoding.loop import prefill
    from ...refimpl.decoding.stop import limit_new_tokens
    from ...runtime.hardware import peak_memory
    from ...runtime.tasks import load

    start = time.perf_counter()
    model = load(bundle, device, threads)
    loaded = time.perf_counter()
    limit_new_tokens(model.config.context, prompt_tokens + new_tokens - 1, 1)
    ids = np.random.default_rng(0).integers(0, model.config.embedding.vocabulary, prompt_tokens).tolist()
    int(np.argmax(prefill(model.engine, ids, model.start())[0]))
    first = time.perf_counter()
    logits, cache = prefill(model.engine, ids, model.start())
    read = time.perf_counter()
    for _ in range(new_tokens):
        step, cache = model.step(np.array([[np.argmax(logits)]]), cache)
        logits = step[0, 0]
    end, peak = time.perf_counter(), peak_memory()
    return {
        "prefill_tokens_per_s": prompt_tokens / (read - first),
        "decode_tokens_per_s": new_tokens / (end - read),
        "first_token_s": first - loaded,
        "load_s": loaded - start,
        "peak_rss_mb": None if peak is None else peak / 1e6,
    }

"""Measure how fast a bundle loads, reads prompts and generates tokens on this machine."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from ...refimpl.decoding.loop import prefill
from ...refimpl.decoding.stop import limit_new_tokens
from ..hardware import peak_memory
from ..ort.engine import OrtEngine
from ..progress import Progress, tracked
from ..tasks import load


@dataclass(frozen=True)
class Speed:
    """The speeds of one run in a new process.

    `path` names the code that ran the model (`runtime.ort.engine`). `peak_rss_mb`, the largest memory of
    the process, is None if the system doesn't report it.
    """

    path: str
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    first_token_s: float
    load_s: float
    peak_rss_mb: float | None


@dataclass(frozen=True)
class Spread:
    """The mean, standard deviation, median and extremes of a figure over several runs. The standard deviation
    of a single run is None.
    """

    mean: float
    std: float | None
    median: float
    min: float
    max: float


@dataclass(frozen=True)
class Setting:
    """The figures of several runs with one number of threads and one prompt length. `path` names the code
    that ran the model.
    """

    path: str
    threads: int
    prompt_tokens: int
    prefill_tokens_per_s: Spread
    decode_tokens_per_s: Spread
    first_token_s: Spread
    load_s: Spread
    peak_rss_mb: Spread | None


def measure(bundle: Path, device: str, threads: int | None, prompt_tokens: int, new_tokens: int) -> Speed:
    """Measure one run in this process: the time to load the model, the time to its first token, and the
    speeds of prefill and decoding after a warm-up.
    """
    start = time.perf_counter()
    model = load(bundle, device, threads)
    loaded = time.perf_counter()
    assert isinstance(model.engine, OrtEngine)
    limit_new_tokens(model.config, prompt_tokens + new_tokens - 1, 1)
    ids = np.random.default_rng(0).integers(0, model.config.embedding.vocabulary, prompt_tokens).tolist()
    int(np.argmax(prefill(model.engine, ids, model.engine.start())[0]))
    first_token = time.perf_counter()
    logits, cache = prefill(model.engine, ids, model.engine.start())
    prompt_read = time.perf_counter()
    for _ in range(new_tokens):
        step, cache = model.engine.step(np.array([[np.argmax(logits)]]), cache)
        logits = step[0, 0]
    end = time.perf_counter()
    peak = peak_memory()
    return Speed(
        path=model.engine.backend,
        prefill_tokens_per_s=prompt_tokens / (prompt_read - first_token),
        decode_tokens_per_s=new_tokens / (end - prompt_read),
        first_token_s=first_token - loaded,
        load_s=loaded - start,
        peak_rss_mb=None if peak is None else peak / 1e6,
    )


def compare(
    bundle: Path,
    device: str,
    threads: Sequence[int],
    prompts: Sequence[int],
    new_tokens: int,
    repeats: int,
    progress: Progress,
) -> list[Setting]:
    """Measure each number of threads with each prompt length, and return their figures.

    Each run has its own process, because load time and peak memory can't be measured twice in one process.
    Each repeat runs all settings before the next repeat begins. So a slow period of the machine affects
    all settings alike.
    """
    cases = list(dict.fromkeys((count, prompt) for count in threads for prompt in prompts))
    speeds: dict[tuple[int, int], list[Speed]] = {case: [] for case in cases}
    total = repeats * len(cases)
    stage = f"{total} runs, each in a new process"
    progress(stage, 0, total)
    # Ctrl-C ends a worker at once, without the traceback of what it imports.
    start = (signal.signal, (signal.SIGINT, signal.SIG_DFL))
    with ProcessPoolExecutor(1, get_context("spawn"), *start, max_tasks_per_child=1) as pool:
        for case in tracked(cases * repeats, total, stage, progress):
            speeds[case].append(pool.submit(measure, bundle, device, *case, new_tokens).result())
    return [setting(*case, speeds[case]) for case in cases]


def setting(threads: int, prompt_tokens: int, speeds: Sequence[Speed]) -> Setting:
    """Summarize the speeds of several runs with the same number of threads and the same prompt length."""
    peaks = [speed.peak_rss_mb for speed in speeds if speed.peak_rss_mb is not None]
    return Setting(
        speeds[0].path,
        threads,
        prompt_tokens,
        spread([speed.prefill_tokens_per_s for speed in speeds]),
        spread([speed.decode_tokens_per_s for speed in speeds]),
        spread([speed.first_token_s for speed in speeds]),
        spread([speed.load_s for speed in speeds]),
        spread(peaks) if peaks else None,
    )


def spread(values: Sequence[float]) -> Spread:
    """Return the mean, sample standard deviation, median and extremes of the values."""
    return Spread(
        statistics.mean(values),
        statistics.stdev(values) if len(values) > 1 else None,
        statistics.median(values),
        min(values),
        max(values),
    )

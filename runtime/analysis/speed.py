"""How fast a bundle loads, reads and writes on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...refimpl.decoding.loop import prefill
from ...refimpl.decoding.stop import limit_new_tokens
from ..hardware import peak_memory
from ..tasks import load


@dataclass(frozen=True)
class Speed:
    """One run in a fresh process; `peak_rss_mb` is None where the system doesn't say."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    first_token_s: float
    load_s: float
    peak_rss_mb: float | None


def measure(bundle: Path, device: str, threads: int | None, prompt_tokens: int, new_tokens: int) -> Speed:
    """One run in this process: load, the first token from cold, then prefill and decode again, warm."""
    start = time.perf_counter()
    model = load(bundle, device, threads)
    loaded = time.perf_counter()
    limit_new_tokens(model.config.context, prompt_tokens + new_tokens - 1, 1)
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
        prefill_tokens_per_s=prompt_tokens / (prompt_read - first_token),
        decode_tokens_per_s=new_tokens / (end - prompt_read),
        first_token_s=first_token - loaded,
        load_s=loaded - start,
        peak_rss_mb=None if peak is None else peak / 1e6,
    )

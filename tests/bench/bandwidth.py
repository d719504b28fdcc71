"""Which share of the read bandwidth a decode step uses: a token reads every weight once.

    python tests/bench/bandwidth.py BUNDLE

The weights are those that the backend reads: for kernels, kernels.data. Reading and decoding take turns. What
is read is an array as large as the weights, so that as much of it lies in the last cache. Each thread sums a
part with NumPy, which releases the interpreter's lock.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import typer
from tfm.runtime.bundle.bundle import DATA, open_bundle
from tfm.runtime.tasks import load
from workers import quiet

PROMPT, STEPS = 128, 64


def main(bundle: Path, threads: int = 2, rounds: int = 15) -> None:
    """Measure in turn and print both in GB/s, and the ratio of medians."""
    typer.echo(quiet(), nl=bool(quiet()))
    engine, size = load(bundle, threads=threads).engine, (bundle / DATA).stat().st_size
    if engine.backend.startswith("kernels"):
        size = sum(tensor.length for tensor in open_bundle(bundle).kernel_tensors.values())
    parts = np.array_split(np.ones(size // 8, np.int64), threads)
    token = np.ones((1, 1), np.int64)
    read, decoded = [], []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds + 1):
            begin = time.perf_counter()
            list(pool.map(np.sum, parts))
            read.append(size / (time.perf_counter() - begin) / 1e9)
            _, cache = engine.step(np.ones((1, PROMPT), np.int64), engine.start())
            begin = time.perf_counter()
            for _ in range(STEPS):
                _, cache = engine.step(token, cache)
            decoded.append(STEPS * size / (time.perf_counter() - begin) / 1e9)
    fastest, ours = statistics.median(read[1:]), statistics.median(decoded[1:])
    typer.echo(f"{size / 1e6:.0f} MB: read {fastest:.1f} GB/s, decode {ours:.1f} GB/s, {ours / fastest:.0%}")


if __name__ == "__main__":
    typer.run(main)

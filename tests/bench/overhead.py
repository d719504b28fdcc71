"""What `engine.step` costs over the session run that it wraps: at most 5 % may be Python.

    python tests/bench/overhead.py BUNDLE

It is measured twice. By clocks before and after the run within a step: nothing else is in that figure, but it
can't see a run that the step itself makes slower. And beside a bare side, which binds every input and output
once, as tightly as ONNX Runtime's Python API allows, and repeats `run_with_iobinding` on the engine's own
session: no checks, no new memory, nobody reads the logits. The two take turns, some steps each, since texts
are written step after step: where they took turns with each step, twice the weights went through the
processor's caches before Python's next turn. The medians over all steps are compared; their difference has
the noise of two whole runs. Exit code 1: over 5 %.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import typer
from tfm import runtime
from tfm.refimpl.engine.cache_kinds import array_names
from tfm.refimpl.ops.position_tables import position_tables
from tfm.runtime.ort.engine import OrtEngine

CAPACITY = 256


def bare(engine: OrtEngine, start: int) -> Callable[[int], None]:
    """One step of one token after `past` others, by the session alone; its cache has `start` tokens, as what
    nobody wrote is a page of zeros and read in no time."""
    config, io = engine.config, engine.session.io_binding()
    arrays: dict[str, np.ndarray] = {
        "tokens": np.full((1, 1), 100, np.int64),
        "past": np.zeros(1, np.int64),
        "at": np.zeros((1, 1), np.int64),
    }
    tables = position_tables(np.arange(CAPACITY), config=config)
    for i, rope in enumerate(config.ropes):
        for name, table in zip(("cos", "sin"), tables[rope], strict=True):
            arrays[f"{name}.{i}"] = np.ascontiguousarray(table, engine.dtype)
    cache = engine.step(np.full((1, start), 100), engine.start(1))[1].take()
    assert cache.capacity == CAPACITY
    buffers = [buffer for layer in cache.layers for buffer in layer]
    arrays |= {name: buffer.read() for name, buffer in zip(array_names(engine.kinds), buffers, strict=True)}
    windows = [port.name for port in engine.session.get_inputs() if port.name.startswith("window_length.")]
    arrays |= {name: np.zeros(1, np.int64) for name in windows}
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
    for name, value in values.items():
        io.bind_ortvalue_input(name, value)
    for output in engine.session.get_outputs():
        if output.name == "logits":
            shape, dtype = (1, 1, config.embedding.vocabulary), np.dtype(np.float32)
        else:
            source = output.name.replace("_out", "")
            if engine.shared:
                io.bind_ortvalue_output(output.name, values[source])
                continue
            shape, dtype = arrays[source].shape, engine.dtype
        io.bind_ortvalue_output(output.name, ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype)))

    def step(past: int) -> None:
        for name in ("past", *windows):
            arrays[name][0] = past
        engine.session.run_with_iobinding(io)

    return step


class RunClock:
    """How long the latest run of a session took, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        run = ort.InferenceSession.run_with_iobinding

        def timed(session: ort.InferenceSession, *arguments: object) -> None:
            begin = time.perf_counter()
            run(session, *arguments)
            self.seconds = time.perf_counter() - begin

        ort.InferenceSession.run_with_iobinding = timed


def main(bundle: Path, threads: int = 2, start: int = 128, steps: int = 64, blocks: int = 10) -> None:
    """Measure both, print medians, and exit 1 when the step costs more than 5 % over the run."""
    model = runtime.load(bundle, threads=threads)
    engine = model.engine
    assert isinstance(engine, OrtEngine)
    run, token, clock = bare(engine, start), np.array([[100]], np.int64), RunClock()
    outside: list[float] = []
    ours: list[float] = []
    theirs: list[float] = []
    _, cache = engine.step(np.full((1, start), 100), engine.start(1))
    for block in range(blocks + 1):
        of_step, of_outside, of_run = [], [], []
        for _ in range(steps):
            begin = time.perf_counter()
            _, cache = engine.step(token, cache)
            of_step.append(time.perf_counter() - begin)
            of_outside.append(of_step[-1] - clock.seconds)
        cache = cache.truncate(np.array([start]))
        for past in range(start, start + steps):
            begin = time.perf_counter()
            run(past)
            of_run.append(time.perf_counter() - begin)
        if block:  # the first block warms up
            ours, outside, theirs = ours + of_step, outside + of_outside, theirs + of_run
    mine, other = statistics.median(ours), statistics.median(theirs)
    typer.echo(f"engine.step outside the run {statistics.median(outside) * 1e3:.3f} ms")
    typer.echo(f"engine.step {mine * 1e3:.3f} ms, session run {other * 1e3:.3f} ms: {mine / other - 1:+.1%}")
    raise typer.Exit(0 if mine <= 1.05 * other else 1)


if __name__ == "__main__":
    typer.run(main)

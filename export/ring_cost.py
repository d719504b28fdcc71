"""Measure the cost of ring attention over 1, 2, 4, … processes: the time, and the memory of each process."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import distributed

from ..refimpl.errors import DeviceError
from ..runtime.hardware import peak_memory, user_seconds
from .distributed_ring import ring_attend

HEADS, WIDTH, TILE = 8, 64, 256
CALLS = 3  # the median counts


@dataclass(frozen=True)
class RingCost:
    """The cost of ring attention over several processes.

    - `seconds`: how long a call takes on the slowest rank.
    - `computing_s`: how many seconds of a call the busiest rank computes.
    - `bytes_a_rank`: the most memory that a rank needs for its inputs and its attention. None if the system
      doesn't report memory.
    """

    processes: int
    tokens_a_rank: int
    seconds: float
    computing_s: float
    bytes_a_rank: int | None


@dataclass(frozen=True)
class RankCost:
    """The cost of ring attention on one rank.

    - `seconds`: how long each call takes.
    - `computing_s`: in how many of these seconds the rank computes.
    - `peak_rise`: by how many bytes the peak memory of the process grows. None if the system doesn't
      report memory.
    """

    seconds: list[float]
    computing_s: list[float]
    peak_rise: int | None


def ring_cost(processes: int, tokens: int, timeout: float) -> RingCost | None:
    """Measure and return the cost of ring attention over a text of `tokens` tokens. Each process uses one
    thread.

    Returns None if the measurement takes more than `timeout` seconds, including the start of the processes.
    Raises DeviceError if a process ends early.
    """
    until = time.monotonic() + timeout
    with TemporaryDirectory() as folder, _started(processes, tokens, Path(folder), timeout) as connections:
        answers = []
        for rank, connection in enumerate(connections):
            if not connection.poll(max(0, until - time.monotonic())):
                return None
            try:
                answer = connection.recv()
            except EOFError:
                answer = "the process of this rank was ended"
            if isinstance(answer, str):
                raise DeviceError(
                    f"rank {rank} of a ring of {processes} processes returned no result: {answer}"
                )
            answers.append(answer)
    calls = zip(*(answer.seconds for answer in answers), strict=True)
    peaks = [answer.peak_rise for answer in answers if answer.peak_rise is not None]
    return RingCost(
        processes,
        tokens_a_rank=-(-tokens // processes),
        seconds=statistics.median(map(max, calls)),
        computing_s=max(statistics.median(answer.computing_s) for answer in answers),
        bytes_a_rank=max(peaks) if peaks else None,
    )


@contextmanager
def _started(processes: int, tokens: int, folder: Path, timeout: float) -> Iterator[list[Connection]]:
    """Start one process for each rank, and yield a connection to each. All processes are killed at the end of
    the `with` block.
    """
    context, ranks, connections = get_context("spawn"), [], []
    try:
        # Ranks inherit that Ctrl-C is ignored, and are ended here: while they import torch it is a traceback.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for rank in range(processes):
                receiver, sender = context.Pipe(duplex=False)
                connections.append(receiver)
                arguments = (rank, processes, tokens, str(folder / "meeting"), timeout, sender)
                ranks.append(context.Process(target=_run_rank, args=arguments, daemon=True))
                ranks[-1].start()
                sender.close()  # so that the end of the process is the end of the connection
        finally:
            signal.signal(signal.SIGINT, handler)
        yield connections
    finally:
        for process in ranks:
            process.kill()
            process.join()


def _run_rank(
    rank: int, processes: int, tokens: int, meeting: str, timeout: float, sender: Connection
) -> None:
    """Run as the process of one rank, and send the result of `measure_rank`, or a text that describes the
    error.
    """
    torch.set_num_threads(1)
    try:
        distributed.init_process_group(
            "gloo", f"file://{meeting}", timedelta(seconds=timeout), world_size=processes, rank=rank
        )
        measure_rank(rank, processes, 2 * processes)  # connections and the libraries' own buffers are made
        sender.send(measure_rank(rank, processes, tokens))
    except Exception as error:  # raised again by `ring_cost`
        sender.send(f"{type(error).__name__}: {error}")
    finally:
        if distributed.is_initialized():  # gloo's threads abort a process that leaves them running
            distributed.destroy_process_group()


def measure_rank(rank: int, processes: int, tokens: int) -> RankCost:
    """Measure and return the cost of ring attention on this rank. The process group must exist already."""
    before = peak_memory()
    positions = torch.arange(tokens)[rank::processes]
    q, k, v = (torch.randn(1, len(positions), HEADS, WIDTH) for _ in range(3))
    seconds, computing_s = [], []
    for _ in range(CALLS):
        distributed.barrier()
        begin, computed = time.perf_counter(), user_seconds()
        ring_attend(q, k, v, positions, tile=TILE)
        seconds.append(time.perf_counter() - begin)
        computing_s.append(user_seconds() - computed)
    after = peak_memory()
    return RankCost(seconds, computing_s, None if before is None or after is None else after - before)

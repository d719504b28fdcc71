"""What a ring of processes costs is measured in real processes, which end whatever happens."""

from __future__ import annotations

import multiprocessing
import signal
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.refused import refused
from tfm.export import ring_cost
from tfm.refimpl.errors import DeviceError


def test_two_processes_give_their_cost_and_end():
    cost = ring_cost.ring_cost(2, 1024, 3600)
    assert cost is not None
    assert (cost.processes, cost.tokens_a_rank) == (2, 512)
    assert cost.computing_s > 0
    assert cost.seconds > 0
    # Queries, keys, values and output of this rank, and keys and values of the other one.
    numbers = 512 * ring_cost.HEADS * ring_cost.WIDTH
    assert cost.bytes_a_rank is None or 4 * 4 * numbers < cost.bytes_a_rank < 10 * 6 * 4 * numbers
    assert multiprocessing.active_children() == []


@pytest.mark.usefixtures("interruptible")
def test_what_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch):
    context, started = multiprocessing.get_context("spawn"), []

    def start(**options):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "Ctrl-C gives no traceback of a rank"
        started.append(context.Process(**options))
        return started[-1]

    monkeypatch.setattr(ring_cost, "get_context", lambda _: SimpleNamespace(Pipe=context.Pipe, Process=start))
    assert ring_cost.ring_cost(1, 4096, 0.1) is None
    assert [process.exitcode for process in started] == [-signal.SIGKILL]
    assert signal.getsignal(signal.SIGINT) is not signal.SIG_IGN


def test_what_goes_wrong_in_a_rank_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A rank says what it was, or its connection ends."""
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    ring_cost._run_rank(0, 1, -1, str(tmp_path / "meeting"), 30, sender)
    assert not torch.distributed.is_initialized()
    monkeypatch.setattr(ring_cost, "_started", lambda *_: nullcontext([receiver]))
    with refused(DeviceError, "rank", "0", "ring", "1", "RuntimeError"):
        ring_cost.ring_cost(1, -1, 30)
    sender.close()
    with refused(DeviceError, "rank", "ended"):
        ring_cost.ring_cost(1, 64, 30)

"""Ring attention over real processes (gloo) equals the specification's simulated ring.

Each rank runs this file as a script.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

PATIENCE = 20  # seconds that a rank waits for another one
LIMIT = 120  # seconds that a test waits for all ranks


def cases(count: int) -> list[dict[str, Any]]:
    """Placements, even and uneven lengths, with and without a causal mask, and a rank without tokens."""
    even, uneven = 4 * count, 4 * count + 3
    all_cases = [
        {"length": length, "placement": placement, "causal": causal, "softcap": 2.0 if causal else None}
        for length, placement in (
            (even, "zigzag"),
            (uneven, "zigzag"),
            (uneven, "striped"),
            (uneven, "contiguous"),
        )
        for causal in (False, True)
    ]
    return [*all_cases, {"length": 5, "placement": "last empty", "causal": True, "softcap": None}]


def inputs(case: dict[str, Any], count: int) -> tuple[np.ndarray, ...]:
    """q, k, v and the rank of each token."""
    from tfm.refimpl.ops.ring import place

    length, rng = case["length"], np.random.default_rng(case["length"])
    q, k, v = (rng.standard_normal((2, length, heads, size)) for heads, size in ((6, 4), (2, 4), (2, 3)))
    if case["placement"] == "last empty":
        return q, k, v, np.arange(length) % (count - 1)
    return q, k, v, place(np.arange(length), np.arange(count), placement=case["placement"])


def run_rank(rank: int, count: int, folder: Path, trouble: str) -> None:
    """Run one rank: compute its part of every case and write it to the folder."""
    import torch
    from tfm.export.distributed_ring import ring_attend
    from torch import distributed

    distributed.init_process_group(
        "gloo", f"file://{folder}/meet", timedelta(seconds=PATIENCE), world_size=count, rank=rank
    )
    try:
        for i, case in enumerate(cases(count)):
            *arrays, owner = inputs(case, count)
            positions = np.flatnonzero(owner == rank)
            q, k, v = (torch.from_numpy(a[:, positions]) for a in arrays)
            if trouble == "dies" and rank == 1:
                sys.exit(0)
            if trouble == "misfit" and rank == 1:
                k = k[..., :3]
            out = ring_attend(
                q, k, v, torch.from_numpy(positions), tile=3, causal=case["causal"], softcap=case["softcap"]
            )
            np.savez(folder / f"{i}-{rank}.npz", out=out.numpy(), own=positions)
    finally:
        distributed.destroy_process_group()  # gloo's threads abort a process that leaves them running


def launch(count: int, folder: Path, trouble: str = "none") -> list[tuple[int, str]]:
    """Exit code and last line on stderr of each rank. All ranks are ended."""
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, json.dumps([rank, count, str(folder), trouble])],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    until = time.monotonic() + LIMIT
    try:
        ends = [p.communicate(timeout=max(until - time.monotonic(), 1))[1] for p in ranks]
    finally:
        for p in ranks:
            p.kill()
            p.wait()
    return [
        (p.returncode, (text.strip().splitlines() or [""])[-1]) for p, text in zip(ranks, ends, strict=True)
    ]


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.long)])
def test_processes_equal_simulated_ranks(tmp_path: Path, count: int):
    from helpers.tolerances import equal
    from tfm.refimpl.ops.ring import Placement, ring_attend

    assert [code for code, _ in launch(count, tmp_path)] == [0] * count
    for i, case in enumerate(cases(count)):
        *arrays, owner = inputs(case, count)
        settings = {"causal": case["causal"], "softcap": case["softcap"]}
        expected = ring_attend(*arrays, Placement(owner, np.arange(count)), tile=2, **settings)
        tokens = 0
        for rank in range(count):
            with np.load(tmp_path / f"{i}-{rank}.npz") as part:
                equal(part["out"], expected[:, part["own"]])
                tokens += len(part["own"])
        assert tokens == case["length"]


@pytest.mark.long
def test_a_lost_rank_ends_the_others(tmp_path: Path):
    start = time.monotonic()
    ends = launch(2, tmp_path, "dies")
    assert ends[1][0] == 0
    code, line = ends[0]
    assert code == 1
    assert "DeviceError: rank 0 of 2 " in line
    assert time.monotonic() - start < LIMIT / 2


@pytest.mark.long
def test_shapes_that_dont_fit_are_an_error_on_all_ranks(tmp_path: Path):
    ends = launch(2, tmp_path, "misfit")
    expected = "rank 1 has [2, 6, 2, 3, 3, 8], but rank 0 has [2, 6, 2, 4, 3, 8]"
    assert all(code == 1 and "ConfigError" in line and expected in line for code, line in ends), ends


if __name__ == "__main__":
    _rank, _count, _folder, _trouble = json.loads(sys.argv[1])
    run_rank(_rank, _count, Path(_folder), _trouble)

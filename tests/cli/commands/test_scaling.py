"""`tfm-cli scaling`: memory's exponents are exact enough to be asserted, times are not."""

from __future__ import annotations

import sys
from math import ceil

import numpy as np
import pytest
from tfm.runtime import hardware
from tfm.runtime.analysis import scaling

MEMORY = {"plain": 2, "flash": 1, "window": 1, "sparse": 1, "linear": 1, "lstm": 1}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scaling, "LEAST", 0.01)
    monkeypatch.setattr(scaling, "DISTANCES", (2, 4, 8, 16, 256))


def test_memory_grows_as_it_must(tfm, monkeypatch: pytest.MonkeyPatch):
    # Every length is measured however busy the machine is: what ends a kind early has tests of its own.
    monkeypatch.setattr(hardware, "memory", lambda: None)
    told = tfm("scaling", "--max-n", 4096, "--seconds", 3600, "--json").json
    assert told["lengths"] == [64, 128, 256, 512, 1024, 2048, 4096]
    assert told["kinds"].keys() == MEMORY.keys()
    for name, row in told["kinds"].items():
        assert len(row["seconds"]) == len(row["bytes"]) == 7, name
        # Two tiles of scores, 80 kB, are most of what flash attention needs at such lengths.
        assert name == "flash" or abs(row["memory_exponent"] - MEMORY[name]) <= 0.2, (name, row)
        assert row["time_exponent"] is not None
        upper = told["lengths"][3:], row["bytes"][3:]
        assert row["memory_exponent"] == pytest.approx(np.polyfit(*np.log(upper), 1)[0])
    assert told["kinds"]["lstm"]["steps"] == told["kinds"]["lstm"]["path"] == told["lengths"]
    assert told["kinds"]["window"]["path"][-1] == ceil(4095 / 63)
    assert told["kinds"]["flash"]["steps"][-1] == 64


def test_what_would_take_too_long_or_too_much_is_left_out(tfm, monkeypatch):
    monkeypatch.setattr(hardware, "memory", lambda: 10**7)
    ran = tfm("scaling", "--max-n", 4096)
    assert ran.code == 0
    assert "plain ends before 1024 tokens: memory would run out" in ran.err
    rows = {line.split()[0]: line.split() for line in ran.out.splitlines()[1:7]}
    assert rows["plain"][3] == "512"
    assert rows["linear"][3] == "4096"


def test_time_is_bounded(tfm, monkeypatch):
    monkeypatch.setattr(scaling, "LEAST", 0.3)
    told = tfm("scaling", "--max-n", 1024, "--seconds", 1, "--json").json
    assert all(1 <= len(row["seconds"]) < 5 for row in told["kinds"].values())
    assert told["kinds"]["plain"]["time_exponent"] is None


def test_the_picture(tfm, tmp_path):
    path = tmp_path / "made.png"
    assert tfm("scaling", "--max-n", 1024, "--plot", path).code == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["made.png"]


def test_an_impossible_picture_is_refused_first(tfm, tmp_path, monkeypatch):
    """An impossible picture is refused before the work."""
    monkeypatch.setattr(scaling, "measure", None)
    tfm("scaling", "--plot", tmp_path / "made.gif").failed(2, "a picture ends in .png, .svg, .pdf")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    tfm("scaling", "--plot", tmp_path / "made.png").failed(1, "pip install 'tfm-cli[plot]'")

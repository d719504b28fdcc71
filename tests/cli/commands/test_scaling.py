"""`tfm-cli scaling`: memory's exponents are exact enough to be asserted, times are not."""

from __future__ import annotations

import re
import sys
from math import ceil

import numpy as np
import pytest
from tfm.cli.commands import scaling as scaling_command
from tfm.export import ring_cost
from tfm.runtime import hardware
from tfm.runtime.analysis import scaling, word_softmax

MEMORY = {"plain": 2, "flash": 1, "window": 1, "sparse": 1, "linear": 1, "lstm": 1,
          "latents": 2, "gated delta": 1}  # fmt: skip
# What a layer of one head keeps of 4096 tokens, in bytes, without a recurrence's convolution.
KEPT = {"plain": 2**20, "flash": 2**20, "window": 2**14, "sparse": 2**20, "linear": 4 * 33 * 32, "lstm": 256,
        "latents": 2**18, "gated delta": 4096}  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scaling, "LEAST", 0.001)
    monkeypatch.setattr(scaling, "SAMPLES", 1)
    monkeypatch.setattr(scaling, "DISTANCES", (2, 4, 8, 16, 256))
    monkeypatch.setattr(scaling, "lengths_up_to", lambda longest: [longest // 2**i for i in (4, 3, 2, 1, 0)])


@pytest.mark.long
def test_memory_grows_as_it_must(tfm, monkeypatch: pytest.MonkeyPatch):
    # Every length is measured however busy the machine is: what ends a kind early has tests of its own.
    monkeypatch.setattr(hardware, "memory", lambda: None)
    told = tfm("scaling", "--section", "length", "--max-n", 4096, "--seconds", 3600, "--json").json
    lengths = [256, 512, 1024, 2048, 4096]
    assert told["lengths"] == lengths
    assert told["kinds"].keys() == MEMORY.keys()
    for name, row in told["kinds"].items():
        assert len(row["seconds"]) == len(row["bytes"]) == 5, name
        # Two tiles of scores, 80 kB, are most of what flash attention needs at such lengths, and chunks of a
        # gated delta network's.
        assert name in ("flash", "gated delta") or abs(row["memory_exponent"] - MEMORY[name]) <= 0.2, (
            name,
            row,
        )
        low, high = row["memory_interval"]
        assert low <= row["memory_exponent"] <= high
        assert row["time_fitted"] == row["memory_fitted"] == [512, 4096]
        upper = np.log(lengths[1:]), np.log(row["bytes"][1:])
        assert row["memory_exponent"] == pytest.approx(np.polyfit(*upper, 1)[0])
    assert told["kinds"]["lstm"]["steps"] == told["kinds"]["lstm"]["path"] == told["lengths"]
    assert told["kinds"]["window"]["path"][-1] == ceil(4095 / 63)
    assert told["kinds"]["flash"]["steps"][-1] == 64
    assert told["kinds"]["gated delta"]["path"][-1] == 64
    assert {name: row["kept_bytes"][-1] for name, row in told["kinds"].items()} == KEPT
    assert "dependence" not in told


def test_what_would_take_too_much_memory_is_left_out(tfm, monkeypatch):
    monkeypatch.setattr(hardware, "memory", lambda: 10**7)
    sections = ("--section", "length", "--section", "words", "--section", "ring")
    ran = tfm("scaling", *sections, "--max-n", 4096, "--seconds", 3600)
    assert ran.code == 0
    for what in ("plain isn't measured at 1024 ", "softmax over 100,000 ", "ring of 1 "):
        assert re.search(f"{what}.* because memory", ran.err), what
    assert "Ring" not in ran.out
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in ran.out.splitlines()]
    cells = {row[0]: row for row in rows if row}
    assert cells["plain"][1:4] == ["too short", "too short", "512"]
    assert cells["linear"][3:5] == ["512 to 4096", "4096"]
    assert re.fullmatch(r"\d\.\d\d ± \d+\.\d\d", cells["linear"][2])


def test_the_sections_and_what_they_say(tfm, monkeypatch):
    monkeypatch.setattr(word_softmax, "WORDS", 20_000)
    costs = [ring_cost.RingCost(1, 2048, 1.5, 1.25, 2 * 10**8), ring_cost.RingCost(2, 1024, 0.75, 0.5, None)]
    monkeypatch.setattr(ring_cost, "ring_cost", lambda count, *_: {c.processes: c for c in costs}.get(count))
    options = ("scaling", "--section", "words", "--section", "ring", "--section", "reach")
    ran = tfm(*options)
    lines = [line.split() for line in ran.out.splitlines()]
    assert ["1", "2048", "1.5", "1.25", "200.0", "MB"] in lines
    assert ["2", "1024", "0.75", "0.5", "unknown"] in lines
    assert re.search("ring of 4 .* because time", ran.err)
    assert "KIND" not in ran.out
    told = tfm(*options, "--json").json
    assert told["ring"]["rings"][1] == {
        "processes": 2, "tokens_a_rank": 1024, "seconds": 0.75, "computing_s": 0.5, "bytes_a_rank": None
    }  # fmt: skip
    # The table of each, the short list with its two clusters, and of these clusters two matrices.
    adaptive = 256 * 2002 + 256 * 64 + 64 * 8000 + 256 * 16 + 16 * 10_000
    assert told["softmax"]["full"]["parameters"] == 256 * 20_000
    assert told["softmax"]["adaptive"]["parameters"] == adaptive
    assert told["softmax"]["adaptive"]["bytes"] < told["softmax"]["full"]["bytes"]
    assert set(told) == {"ring", "softmax", "dependence"}


def test_without_torch_the_ring_is_left_out(tfm, monkeypatch):
    monkeypatch.setattr(scaling_command, "find_spec", lambda _: None)
    ran = tfm("scaling", "--section", "ring", "--json")
    assert ran.json == {}
    assert "pip install 'tfm-cli[export]'" in ran.err


def test_the_picture(tfm, tmp_path):
    path = tmp_path / "made.png"
    options = ("scaling", "--section", "length", "--section", "reach", "--max-n", 1024)
    assert tfm(*options, "--plot", path).code == 0
    assert path.read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["made.png"]


def test_an_impossible_picture_is_refused_first(tfm, tmp_path, monkeypatch):
    """An impossible picture is refused before the work."""
    monkeypatch.setattr(scaling, "measure", None)
    tfm("scaling", "--plot", tmp_path / "made.gif").failed(2, ".png", ".svg", ".pdf")
    tfm("scaling", "--plot", tmp_path / "none" / "made.png").failed(2, "none", "directory")
    tfm("scaling", "--section", "ring", "--plot", tmp_path / "made.png").failed(2, "length", "reach")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    tfm("scaling", "--plot", tmp_path / "made.png").failed(1, "'tfm-cli[plot]'")

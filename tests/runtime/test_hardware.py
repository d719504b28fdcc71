"""What the machine offers, read from made-up files of a system."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tfm.runtime import hardware

GB = 2**30


def test_instructions_that_saturate() -> None:
    assert hardware.saturates("x86_64", frozenset({"avx2"}))
    assert hardware.saturates("AMD64", frozenset())
    assert not hardware.saturates("x86_64", frozenset({"avx_vnni"}))
    assert not hardware.saturates("x86_64", frozenset({"avx512_vnni"}))
    assert not hardware.saturates("aarch64", frozenset())


def test_threads_follow_cores_and_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for processor, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        folder = tmp_path / f"cpus/cpu{processor}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    assert hardware.cores({0, 1, 2, 3}, tmp_path / "cpus") == 2
    assert hardware.cores({0, 2}, tmp_path / "cpus") == 1
    assert hardware.cores({8, 9}, tmp_path / "cpus") == 2
    groups = tmp_path / "groups"
    (groups / "a/b").mkdir(parents=True)
    (groups / "cpu/a").mkdir(parents=True)
    (tmp_path / "own").write_text("0::/a/b\n")
    assert hardware.quota(groups, tmp_path / "own") == math.inf
    (groups / "a/b/cpu.max").write_text("max 100000\n")
    assert hardware.quota(groups, tmp_path / "own") == math.inf
    (groups / "a/cpu.max").write_text("250000 100000\n")
    assert hardware.quota(groups, tmp_path / "own") == 2.5
    (groups / "cpu/a/cpu.cfs_quota_us").write_text("150000")
    (groups / "cpu/a/cpu.cfs_period_us").write_text("100000")
    assert hardware.quota(groups, tmp_path / "own") == 1.5
    assert hardware.quota(groups, tmp_path / "absent") == math.inf
    for allowed, want in ((math.inf, 4), (2.5, 2), (0.5, 1)):
        monkeypatch.setattr(hardware, "quota", lambda allowed=allowed: allowed)
        monkeypatch.setattr(hardware, "affinity", lambda: {0, 1, 2, 3, 4, 5, 6, 7})
        monkeypatch.setattr(hardware, "cores", lambda _: 4)
        assert hardware.threads.__wrapped__() == want


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    """A system with 8 GB available."""
    (tmp_path / "meminfo").write_text(f"MemTotal: {16 * GB // 1024} kB\nMemAvailable: {8 * GB // 1024} kB\n")
    return tmp_path / "meminfo"


def write(folder: Path, **files: object) -> Path:
    """A cgroup's files; `_` stands for a dot in their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(f"{text}\n")
    return folder


def test_memory_is_what_the_system_has_within_the_cgroups_limit(tmp_path: Path, meminfo: Path) -> None:
    assert hardware.memory(tmp_path / "none", meminfo) == 8 * GB
    groups = write(tmp_path / "two", memory_max="max", memory_current=3 * GB)
    assert hardware.memory(groups, meminfo) == 8 * GB
    write(groups, memory_max=4 * GB)
    assert hardware.memory(groups, meminfo) == GB
    write(groups, memory_current=5 * GB)
    assert hardware.memory(groups, meminfo) == 0
    write(groups, memory_max=40 * GB)
    assert hardware.memory(groups, meminfo) == 8 * GB


def test_files_that_a_cgroup_caches_are_available(tmp_path: Path, meminfo: Path) -> None:
    """Those that weren't used for a while; in the older hierarchy those of groups below count too."""
    groups = write(tmp_path / "two", memory_max=4 * GB, memory_current=3 * GB)
    write(groups, memory_stat=f"anon {GB}\nfile {2 * GB}\ninactive_file {GB}\nactive_file {GB}")
    assert hardware.memory(groups, meminfo) == 2 * GB
    for damaged in ("anon 5", "inactive_file many", "inactive_file"):
        write(groups, memory_stat=damaged)
        assert hardware.memory(groups, meminfo) == GB
    folder = tmp_path / "one" / "memory"
    write(folder, memory_limit_in_bytes=4 * GB, memory_usage_in_bytes=3 * GB)
    write(folder, memory_stat=f"inactive_file 1\ntotal_inactive_file {2 * GB}")
    assert hardware.memory(tmp_path / "one", meminfo) == 3 * GB

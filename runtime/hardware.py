"""The hardware that a process may use: processors, a useful number of threads, int8 instructions, memory."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
import sys
from functools import cache
from pathlib import Path

CPUS = Path("/sys/devices/system/cpu")
CGROUPS = Path("/sys/fs/cgroup")
MMAP_THRESHOLD, LARGE_BLOCK = -3, 2**21  # a parameter of glibc's mallopt, and bytes
TRIM_THRESHOLD, KEPT = -1, 2**25


def affinity() -> set[int]:
    """Return the numbers of the logical processors on which this process may run."""
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cores(processors: set[int], root: Path = CPUS) -> int:
    """Return the number of physical cores that these logical processors belong to.

    If the system doesn't report cores, each logical processor counts as a core."""

    def siblings(processor: int) -> str:
        try:
            return (root / f"cpu{processor}/topology/thread_siblings_list").read_text()
        except OSError:
            return str(processor)

    return len({siblings(processor) for processor in processors})


def quota(root: Path = CGROUPS, groups: Path = Path("/proc/self/cgroup")) -> float:
    """Return the processor time that cgroups allow this process, as a number of processors.

    The result is the lowest limit of the process's cgroup and of all groups above it.
    """
    try:
        names = [line.split(":", 2)[2].strip("/") for line in groups.read_text().splitlines()]
    except (OSError, IndexError):
        names = []
    paths = {""}
    for name in filter(None, names):
        paths |= {str(path) for path in (Path(name), *Path(name).parents)}
    limits = [math.inf]
    for path in paths:
        limits.append(_ratio(root / path / "cpu.max"))
        limits.append(_ratio(root / "cpu" / path / "cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return min(limits)


def _ratio(file: Path, period: str = "") -> float:
    """Return a cgroup's quota divided by its period, or infinity if no quota is set.

    Both numbers are in `file`, unless `period` names the period's own file.
    """
    try:
        numbers = file.read_text().split()
        if period:
            numbers += file.with_name(period).read_text().split()
        return int(numbers[0]) / int(numbers[1]) if int(numbers[0]) > 0 else math.inf
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        return math.inf  # no such controller here, or "max"


@cache
def threads() -> int:
    """Return the number of threads that is useful for computing: one per core, within the processor quota.

    Additional threads would only wait."""
    allowed = min(len(affinity()), quota())
    return max(1, min(int(allowed), cores(affinity())))


@cache
def flags() -> frozenset[str]:
    """Return the processor's feature flags under Linux's names, or an empty set if they can't be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    names: set[str] = set()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            names |= set(value.split())
    return frozenset(names)


def processor() -> str:
    """Return the processor's name. Without /proc/cpuinfo, return the name of its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()  # the second runs a program


def saturates(machine: str = "", have: frozenset[str] | None = None) -> bool:
    """Return whether the processor's fast product of uint8 and int8 clips sums to 16 bits.

    This is so on x86 without VNNI. By default, `machine` and `have` describe this machine.
    """
    have = flags() if have is None else have
    x86 = (machine or platform.machine()).lower() in ("x86_64", "amd64", "i386", "i686")
    return x86 and not have & {"avx512_vnni", "avx_vnni"}


def memory(groups: Path = CGROUPS, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Return how many bytes of memory this process can still get, or None if the system doesn't report it.

    The result is the system's available memory, at most the rest of the cgroup's limit. A cgroup counts
    cached files as used. Before the kernel refuses memory, it drops cached files that weren't read for a
    while (`inactive_file`). So these files count as available here, as they do in the system's own count.
    """
    free: list[int] = []
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, ValueError, KeyError, IndexError):
        # macOS says only how much there is in all.
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            free.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            room = int((groups / limit).read_text()) - int((groups / used).read_text())
        except (OSError, ValueError):
            continue  # no such controller here, or "max"
        free.append(room + _statistic((groups / limit).with_name("memory.stat"), cached))
    return max(0, min(free)) if free else None


def _statistic(file: Path, name: str) -> int:
    """Return a number from a cgroup's memory.stat; 0 if it isn't in the file."""
    try:
        lines = dict(line.split() for line in file.read_text().splitlines())
        return int(lines[name])
    except (OSError, ValueError, KeyError):
        return 0


def peak_memory() -> int | None:
    """Return the largest number of bytes of memory that this process has used so far.

    Returns None if the system doesn't report it.
    """
    try:
        # Linux's ru_maxrss starts at the peak of the process that forked, VmHWM doesn't.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def user_seconds() -> float:
    """Return the processor time, in seconds, that this process has spent in its own code, not in the
    kernel.
    """
    try:
        import resource
    except ImportError:
        return os.times().user  # in hundredths
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def trim() -> None:
    """Return freed memory to the operating system. Otherwise the allocator (glibc) would keep it."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def return_large_blocks() -> None:
    """Make the allocator (glibc) return large blocks of memory to the system as soon as they are freed.

    By default glibc changes its limit once it has freed a large block. After that, it allocates blocks of
    this size from memory that it can return only in part. With these settings, glibc still keeps smaller
    blocks, up to the size of the logits of several steps. Both limits must be set: if only one is set, glibc
    no longer adapts the other, and would allocate and return the logits in each step.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        glibc = ctypes.CDLL(None)
        glibc.mallopt(MMAP_THRESHOLD, LARGE_BLOCK)
        glibc.mallopt(TRIM_THRESHOLD, KEPT)

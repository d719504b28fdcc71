"""What this machine offers a process: processors, useful threads, int8 instructions, memory."""

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
    """The logical processors that this process may run on."""
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cores(processors: set[int], root: Path = CPUS) -> int:
    """How many physical cores the logical processors have; one each if the system doesn't say."""

    def siblings(processor: int) -> str:
        try:
            return (root / f"cpu{processor}/topology/thread_siblings_list").read_text()
        except OSError:
            return str(processor)

    return len({siblings(processor) for processor in processors})


def quota(root: Path = CGROUPS, groups: Path = Path("/proc/self/cgroup")) -> float:
    """The processor time that cgroups allow, in processors: the lowest of this group and those above it."""
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
    """Quota over period, both in the file, or the period in another file; infinite without a quota."""
    try:
        numbers = file.read_text().split()
        if period:
            numbers += file.with_name(period).read_text().split()
        return int(numbers[0]) / int(numbers[1]) if int(numbers[0]) > 0 else math.inf
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        return math.inf  # no such controller here, or "max"


def threads() -> int:
    """The number of useful threads: a second one on a core, or one beyond the quota, only waits."""
    allowed = min(len(affinity()), quota())
    return max(1, min(int(allowed), cores(affinity())))


@cache
def flags() -> frozenset[str]:
    """The processor's feature flags as Linux names them; empty where they can't be read."""
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
    """The processor's name; without /proc/cpuinfo the name of its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()  # the second runs a program


def saturates(machine: str = "", have: frozenset[str] | None = None) -> bool:
    """True on x86 without VNNI, whose fast product of uint8 and int8 clips its 16-bit sums."""
    have = flags() if have is None else have
    x86 = (machine or platform.machine()).lower() in ("x86_64", "amd64", "i386", "i686")
    return x86 and not have & {"avx512_vnni", "avx_vnni"}


def memory(groups: Path = CGROUPS, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that a process can still get: what the system has available, within the cgroup's limit.

    A cgroup counts cached files as used. The kernel drops those that weren't read for a while before it
    refuses memory (`inactive_file`), so they are available, as in the system's own count.
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
    """A number of a cgroup's memory.stat; 0 where it isn't stated."""
    try:
        lines = dict(line.split() for line in file.read_text().splitlines())
        return int(lines[name])
    except (OSError, ValueError, KeyError):
        return 0


def peak_memory() -> int | None:
    """The most bytes of memory that this process has had; None where the system doesn't say."""
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
    """Seconds that this process has computed, without what the system computed for it."""
    try:
        import resource
    except ImportError:
        return os.times().user  # in hundredths
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def trim() -> None:
    """Return freed memory to the system, where the allocator (glibc) would keep it."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def return_large_blocks() -> None:
    """Return large blocks to the system once they are freed, where the allocator (glibc) would keep them:
    after it freed one, it takes those of that size from memory that it can return in part only.

    It keeps smaller ones, up to several steps' logits: told one size, it adapts the other no more, and would
    return and get logits in each step.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        glibc = ctypes.CDLL(None)
        glibc.mallopt(MMAP_THRESHOLD, LARGE_BLOCK)
        glibc.mallopt(TRIM_THRESHOLD, KEPT)

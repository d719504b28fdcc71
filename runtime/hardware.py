"""What this machine gives a process: processors, threads worth starting, instructions for int8."""

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


def affinity() -> set[int]:
    """The logical processors that this process may run on."""
    if sys.platform == "linux":
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cores(processors: set[int], root: Path = CPUS) -> int:
    """How many physical cores the logical processors stand on; all of them where nothing says."""

    def siblings(processor: int) -> str:
        try:
            return (root / f"cpu{processor}/topology/thread_siblings_list").read_text()
        except OSError:
            return str(processor)

    return len({siblings(processor) for processor in processors})


def quota(root: Path = CGROUPS, groups: Path = Path("/proc/self/cgroup")) -> float:
    """Processors' worth of time that cgroups allow, the tightest of this group and those above it."""
    try:
        own = [line.split(":", 2)[2].strip("/") for line in groups.read_text().splitlines()]
    except (OSError, IndexError):
        own = []
    found = [math.inf]
    for path in {""} | {str(p) for group in own if group for p in (Path(group), *Path(group).parents)}:
        found.append(_ratio(root / path / "cpu.max"))
        found.append(_ratio(root / "cpu" / path / "cpu.cfs_quota_us", "cpu.cfs_period_us"))
    return min(found)


def _ratio(file: Path, period: str = "") -> float:
    try:
        numbers = file.read_text().split() + (file.with_name(period).read_text().split() if period else [])
        return int(numbers[0]) / int(numbers[1]) if int(numbers[0]) > 0 else math.inf
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        return math.inf  # no such controller here, or "max"


def threads() -> int:
    """Threads that help: a second one on a core, or one beyond the quota, only waits."""
    allowed = min(len(affinity()), quota())
    return max(1, min(int(allowed), cores(affinity())))


@cache
def flags() -> frozenset[str]:
    """The processor's feature flags as Linux names them; empty where they can't be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":") for line in lines)
    return frozenset(
        word for key, _, value in named if key.strip() in ("flags", "Features") for word in value.split()
    )


def saturates(machine: str = "", have: frozenset[str] | None = None) -> bool:
    """True on x86 without VNNI, where the fast product of uint8 and int8 clips its 16-bit sums."""
    have = flags() if have is None else have
    x86 = (machine or platform.machine()).lower() in ("x86_64", "amd64", "i386", "i686")
    return x86 and not have & {"avx512_vnni", "avx_vnni"}


def memory(groups: Path = CGROUPS, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Bytes that a process can still have: what the system says is available, within the cgroup's limit."""
    found: list[int] = []
    try:
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append(int(lines["MemAvailable"].split()[0]) * 1024)
    except (OSError, ValueError, KeyError, IndexError):
        if (
            hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names
        ):  # macOS says only how much there is
            found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(int((groups / limit).read_text()) - int((groups / used).read_text()))
        except (OSError, ValueError):
            continue  # no such controller here, or "max"
    return max(0, min(found)) if found else None


def peak_memory() -> int | None:
    """The most bytes of memory that this process ever held; None where nothing says."""
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


def trim() -> None:
    """Give memory that was freed back to the system, where the allocator (glibc) would keep it."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)

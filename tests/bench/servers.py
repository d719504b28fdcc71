"""Servers as processes on a port of this machine, and what the system says of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

START_S = 300  # a bundle may have to be arranged first


@contextmanager
def started(command: Sequence[object], cores: set[int] | None = None) -> Iterator[tuple[int, str]]:
    """A server, given a free port by `--port`, until its models can be listed: its process id and URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    line = [*map(str, command), "--port", str(port)]

    def pin() -> None:
        if cores is not None:
            os.sched_setaffinity(0, cores)

    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=said, preexec_fn=pin) as process,
    ):
        try:
            url, end = f"http://127.0.0.1:{port}", time.monotonic() + START_S
            while not _answers(url):
                if process.poll() is not None or time.monotonic() > end:
                    said.seek(0)
                    sys.exit(f"{line[0]} didn't start: {said.read().decode()[-2000:]}")
                time.sleep(0.2)
            yield process.pid, url
        finally:
            process.kill()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def private_kib(pid: int) -> int:
    """Memory that is the process's own, swapped or not."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "VmSwap"))


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def processes(pid: int) -> int:
    """Its children, and theirs."""
    found = [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]
    return len(found) + sum(map(processes, found))


def _children(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except FileNotFoundError:  # it has ended
        return []

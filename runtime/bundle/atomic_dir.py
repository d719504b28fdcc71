"""Replace a directory completely or not at all, whatever interrupts the replacement.

During a replacement, these files may lie beside the directory NAME:

    .NAME.tfm-lock              locked by the process that replaces NAME, until the process ends or dies
    .NAME.tfm-new-PID-RANDOM    the next NAME; no process reads it before it is complete and on disk
    .NAME.tfm-old-PID-RANDOM    the previous NAME, which exists only once the new one is complete

The swap renames NAME to old, then new to NAME, and then removes old. After an interruption, the remaining
directories show how far the swap came. If NAME is missing and an old directory exists, the new directory
was complete, so it becomes NAME. If the new directory is gone, the old directory becomes NAME again. All
other leftovers are removed. The operating system frees the lock when its owner dies. So a directory
without a locked lock file belongs to a dead process.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ...refimpl.errors import BundleError, ExportError
from ..progress import Progress

# How long a reader waits for the moment between the two renames of a living writer to pass.
PATIENCE_S = 2.0
LOOK_S = 0.2  # between two looks at another process's lock


class BusyError(ExportError):
    """Raised if another process is writing the same directory."""


def recover(path: Path | str) -> None:
    """Finish or undo an interrupted replacement of `path`, unless the process that replaces `path` still
    runs.

    Raises BundleError if `path` is missing and the folder around it can't be written.
    """
    path = Path(path).resolve()
    if not _left(path):
        return
    try:
        with locked(path):
            _settle(path)
    except BusyError:
        until = time.monotonic() + PATIENCE_S
        while not path.exists() and _left(path, "old") and time.monotonic() < until:
            time.sleep(0.01)
    except OSError as error:
        # A place that can't be written can't be repaired, but what stands in it may be read.
        if not path.exists() and _left(path, "old"):
            raise BundleError(
                f"{path}: an interrupted export can't be finished: {error.strerror}; make the folder "
                f"{path.parent} writable"
            ) from None


def wait_for(path: Path, progress: Progress) -> bool:
    """Wait until no other process is replacing `path`, whether the replacement succeeds or not.

    Returns whether another process was replacing `path`. During the wait, `progress` shows one line to the
    user. Ctrl-C ends the wait.
    """
    path = path.resolve()
    if not _is_locked(path):
        return False
    progress(f"waiting for another process, which is writing {path}", 0, 0)
    while _is_locked(path):
        time.sleep(LOOK_S)
    return True


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a `with` block a new directory, which replaces `path` at the end of the block.

    If the block raises an error, the new directory is removed and `path` stays as it was. Raises
    BusyError, an ExportError, if another process is replacing the same directory.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        _settle(path)
        tag = f"{os.getpid()}-{os.urandom(4).hex()}"
        new, old = (path.with_name(f".{path.name}.tfm-{state}-{tag}") for state in ("new", "old"))
        try:
            new.mkdir()
            yield new
            sync(new)
            if path.exists():
                os.rename(path, old)
            os.rename(new, path)
            sync(path.parent)
        finally:
            _settle(path)


def settled(path: Path) -> Path:
    """Return the final path of a directory. A new directory of `replacing` will get the path that it
    replaces. Any other directory keeps its path.
    """
    new = re.fullmatch(r"\.(.+)\.tfm-new-\d+-[0-9a-f]{8}", path.name)
    return path if new is None else path.with_name(new[1])


def sync(path: Path) -> None:
    """Wait until the operating system has written a file, or a directory's list of entries, to disk
    (fsync).
    """
    if os.name == "nt" and path.is_dir():
        return  # Windows has no handle on a directory; its renames are journalled
    fd = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _left(path: Path, state: str = "*") -> list[Path]:
    start = f".{path.name}.tfm-" + ("" if state == "*" else f"{state}-")
    try:
        return sorted(p for p in path.parent.iterdir() if p.name.startswith(start))
    except OSError:
        return []


def _settle(path: Path) -> None:
    """Finish or undo an interrupted replacement, as the remaining directories say. The caller holds the
    lock.
    """
    old, new = _left(path, "old"), _left(path, "new")
    if not path.exists() and old:
        os.rename(new[0] if new else old[0], path)
        sync(path.parent)
    for directory in (*_left(path, "new"), *_left(path, "old")):
        shutil.rmtree(directory)


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.tfm-lock")


def _is_locked(path: Path) -> bool:
    if not _lock_of(path).exists():
        return False
    try:
        with locked(path):
            return False
    except BusyError:
        return True


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file beside `path` during a `with` block. Raises BusyError if another process holds the
    lock.
    """
    lock = _lock_of(path)
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            _lock(fd)
            mine = os.fstat(fd)
            # The owner before us removes the file as it leaves: a lock on a removed file is none.
            if lock.exists() and os.path.samestat(mine, lock.stat()):
                break
        except BlockingIOError:
            os.close(fd)
            raise BusyError(
                f"{path}: another process is writing here; wait until that process has finished, or choose "
                "another place"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps an open file; the next owner finds it unlocked
            lock.unlink()
        os.close(fd)


def _lock(fd: int) -> None:
    """Lock an open file without waiting. Raises BlockingIOError if another process has locked it."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        system: Any = msvcrt
        try:
            system.locking(fd, system.LK_NBLCK, 1)
        except OSError:
            raise BlockingIOError from None
    else:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

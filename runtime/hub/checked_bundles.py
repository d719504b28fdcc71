"""Remember which bundles were checked on this machine, so that a later start doesn't read all their bytes
again.

    CACHE/checked/HASH    a file for each checked bundle, or for weights made from a bundle. It contains the
                          SHA-256 of the files' metadata at the time of the check. The check compared all
                          hashes and found all numbers finite

A file with unchanged inode, size and times has unchanged bytes, because each change sets the file's ctime
to the current time, and no program can choose the ctime. A record can't detect bytes that changed on the
disk itself, or a clock that was set back. `Bundle.check_hashes` never uses the records, and so neither
does `verify`.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ...refimpl.checkpoint.formats.file_bytes import read_file
from ...refimpl.checkpoint.formats.sha256 import sha256_of
from ...refimpl.errors import TfmError
from ..bundle.bundle import Bundle
from ..bundle.manifest import DATA, MANIFEST
from .cache_dir import cache_dir

CHECKS = 1  # raised where `Bundle.check_hashes` begins to look at something else
SMALLEST = 16 * 2**20  # bytes of weights; fewer are read at once
# A file may change without another ctime as long as the clock of its file system doesn't tick, at most 2 s.
TICK_NS = 2 * 10**9


def checking(bundle: Bundle) -> Callable[[], None]:
    """Check a bundle's hashes in a thread, and return a function that waits for the result and raises its
    error.

    If the bundle hasn't changed since its last check, there is nothing to wait for.
    """
    state = _state(bundle)
    if is_recorded(bundle.path, state):
        return lambda: None
    checked = bundle.checking()

    def wait() -> None:
        checked()
        if _state(bundle) == state:  # nothing changed meanwhile
            record(bundle.path, state)

    return wait


def _state(bundle: Bundle) -> bytes | None:
    """Return a digest of the manifest's hashes and of the files' metadata; None if no record of it can be
    trusted.
    """
    files = bundle.manifest.files
    if files[DATA].size < SMALLEST:
        return None
    paths = [bundle.path / name for name in (MANIFEST, *sorted(files))]
    return state_of(paths, [(name, files[name].sha256) for name in sorted(files)])


def state_of(files: Sequence[Path], expected: object) -> bytes | None:
    """Return a digest of the files' metadata and of the hashes that the files must have.

    Returns None if the metadata can't prove that a file is unchanged.
    """
    if os.name != "posix":  # Windows' ctime is a file's creation
        return None
    try:
        status = [path.lstat() for path in files]
    except OSError:  # the check says which one is missing
        return None
    if max(s.st_ctime_ns for s in status) > time.time_ns() - TICK_NS:
        return None
    stamps = [(s.st_dev, s.st_ino, s.st_mode, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in status]
    return sha256_of(repr((CHECKS, stamps, expected)).encode()).hexdigest().encode()


def is_recorded(path: Path, state: bytes | None) -> bool:
    """Return whether there is a record that the files at this path passed a check in this state."""
    with suppress(TfmError):  # there is no record
        return state is not None and read_file(_record(path), len(state)) == state
    return False


def record(path: Path, state: bytes | None) -> None:
    """Record that the files at this path passed a check in this state. Only this user can read the record."""
    if state is None:
        return
    place = _record(path)
    with suppress(OSError):  # a cache that can't be written: the next start reads all again
        place.parent.mkdir(parents=True, exist_ok=True)
        number, new = tempfile.mkstemp(dir=place.parent, prefix=".")  # with mode 0600
        try:
            with os.fdopen(number, "wb") as file:
                file.write(state)
            os.replace(new, place)
        except OSError:
            Path(new).unlink(missing_ok=True)
            raise


def _record(path: Path) -> Path:
    """Return the path of the record for a path."""
    return cache_dir() / "checked" / sha256_of(str(path.resolve()).encode()).hexdigest()[:24]

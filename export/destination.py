"""Prepare the directory to which a bundle is written. An export replaces only an earlier bundle, and never
leaves incomplete files.
"""

from __future__ import annotations

import errno
import json
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ..refimpl.checkpoint.licence import is_notice
from ..refimpl.errors import ExportError
from ..runtime.bundle import golden_files, manifest
from ..runtime.bundle.atomic_dir import replacing
from ..runtime.bundle.manifest import CERTIFICATE, MANIFEST

# The errors of looking up entries in a manifest that may be anything.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, RecursionError)


@contextmanager
def new_bundle(out: Path, needed_bytes: int) -> Iterator[Path]:
    """Yield a temporary folder for a bundle. At the end of the `with` block, the folder becomes `out`,
    completely or not at all.

    Raises ExportError if `out` is something other than a bundle, if another process is writing to `out`, or
    if the disk is too full before or during the block. SIGTERM ends the block as Ctrl-C does.
    """
    _check_replaceable(out)
    with _stopping(), _full_disk(out, needed_bytes), replacing(out) as folder:
        if (free := shutil.disk_usage(folder).free) < needed_bytes:
            raise ExportError(f"{out}: {_no_room(needed_bytes, free)}")
        yield folder


def _check_replaceable(out: Path) -> None:
    """Raise ExportError unless `out` is missing, empty, or a bundle without files of the user."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"{out}: must be a directory or not exist, but it is a file; choose another name")
    # A verify that was killed may have left the beginning of a certificate.
    golden_folder = out / golden_files.FOLDER
    entries = (*out.iterdir(), *golden_folder.glob("*"))
    names = {p.relative_to(out).as_posix() for p in entries if not p.name.startswith(f".{CERTIFICATE}.")}
    folders = {golden_files.FOLDER} if golden_folder.is_dir() else set()
    others = names - set(manifest.NAMES) - _notices(out) - folders
    if names and (MANIFEST not in names or others):
        odd = sorted(others or names)[0]
        raise ExportError(
            f"{out}: only a bundle may be replaced, but the folder contains {odd!r:.80}; choose another "
            "folder"
        )


def _notices(out: Path) -> set[str]:
    """Return the names of the licences and notices that the bundle's manifest lists. A notice that isn't
    listed belongs to the user.

    If the manifest can't be read, the result is empty.
    """
    try:
        return set(filter(is_notice, json.loads((out / MANIFEST).read_bytes())["files"]))
    except UNREADABLE:
        return set()


def replaced(out: Path) -> str:
    """Return a sentence that says which bundle an export to `out` will replace. The sentence is empty if
    `out` contains no bundle.
    """
    if not (out / MANIFEST).exists():
        return ""
    try:
        stated = json.loads((out / MANIFEST).read_bytes())
        which = f"the bundle of {stated['source']['name']!s:.80} in {stated['quant']!s:.20} there"
    except UNREADABLE:
        which = "the bundle there"
    return f"{out}: {which} will be replaced when the new bundle is complete"


@contextmanager
def _full_disk(out: Path, needed_bytes: int) -> Iterator[None]:
    """Turn an OSError of the `with` block into an ExportError that says what to do. For a full disk or an
    exceeded quota, the message states the needed and the free bytes.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.EFBIG:
            why = (
                f"needs {needed_bytes / 1e6:.1f} MB, but this system allows only smaller files: raise "
                "`ulimit -f`"
            )
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(out.resolve().parent).free
            why = _no_room(needed_bytes, free, f" ({error.strerror})")
        else:
            why = f"can't be written: {error.strerror or error}"
        raise ExportError(f"{out}: {why}") from None


def _no_room(needed_bytes: int, free: int, why: str = "") -> str:
    sizes = f"needs {needed_bytes / 1e6:.1f} MB, but only {free / 1e6:.1f} MB are free"
    return f"{sizes}{why}: free disk space, or choose another folder"


@contextmanager
def _stopping() -> Iterator[None]:
    """Make SIGTERM end the `with` block with an exception, as Ctrl-C does, so that incomplete files are
    removed.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

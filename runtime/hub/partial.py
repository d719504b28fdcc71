"""Resume interrupted downloads: keep the bytes received so far, and continue from there the next time.

    CACHE/partial/NAME/...FILE.part    the bytes of FILE received so far. The file is renamed to FILE once
                                       its hash was checked

tfm loads no model from this folder. The process that downloads NAME holds the lock of models/NAME.
"""

from __future__ import annotations

import io
import os
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ...refimpl.errors import CheckpointError, TfmError
from ..progress import InBytes

SUFFIX = ".part"
GOES_ON = "the next run continues after the part that is already downloaded"
CHUNK = 2**20  # bytes that an interruption may lose; the client's own are ten times as many


class TransferError(CheckpointError):
    """Raised if a download stopped before its end. The bytes received so far are valid, and the next attempt
    can continue from there.
    """


@contextmanager
def kept(folder: Path) -> Iterator[Path]:
    """Give a `with` block a folder for files that are being downloaded.

    The folder is removed at the end of the block, and if a file is refused. The folder stays after an
    interruption or a TransferError, so that the download can continue.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stays = True
    try:
        yield folder
        stays = False
    except TfmError as error:
        stays = isinstance(error, TransferError)
        raise
    finally:
        if not stays or not any(path.stat().st_size for path in folder.rglob("*") if path.is_file()):
            shutil.rmtree(folder, ignore_errors=True)


def stage_of(what: str, rest: int, there: int) -> InBytes:
    """Return the text that a progress line shows for a download of `rest` bytes. `there` bytes were received
    before.
    """
    size = f"{rest / 1e6:.0f} MB of " if rest else ""
    return InBytes(
        f"fetching {size}{what}" + (f", {there / 1e6:.0f} MB are already on disk" if there else "")
    )


def cause_of(error: Exception) -> str:
    """Return the message of a client's error as one line. If the message is empty, return the name of the
    error's class.
    """
    return textwrap.shorten(str(error), 300, placeholder=" …") or type(error).__name__


def keep_only(folder: Path, name: str) -> Path:
    """Return the path of the entry `name` in a folder of partial files. All other entries, which belong to
    other versions, are removed.
    """
    for path in folder.iterdir():
        if path.name not in (name, name + SUFFIX):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder / name


def size_of(path: Path) -> int:
    """Return how many bytes of a file have been received, whether the file is complete or not."""
    return next((p.stat().st_size for p in (path, _part_of(path)) if p.exists()), 0)


def begin_with(path: Path, copies: Iterable[Path], digest: str | None) -> None:
    """Use one of these copies as the received bytes of a file, if the copy's hash is `digest`. Then `fetch`
    downloads nothing.

    On the same disk, the copy only gets a second name. This is safe, because no program writes to a
    complete file.
    """
    if path.exists() or digest is None:
        return
    if (same := next((one for one in copies if one.is_file() and has_digest(one, digest)), None)) is None:
        return
    part = _part_of(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    try:
        os.link(same.resolve(), part)  # the client's own cache has links to its files
    except OSError:  # another disk, or one without second names
        shutil.copyfile(same, part)


def fetch(
    url: str, path: Path, size: int | None, digest: str | None, headers: Mapping[str, str],
    report: Callable[[int], None],
) -> None:  # fmt: skip
    """Download a file, or its missing rest, with the hub's client.

    - `size`: the number of bytes that the file must have; None if unknown.
    - `digest`: its sha256, or the shorter hash that git gives a file.
    - `report`: a function that is called with the number of bytes received so far.

    All work is done in the caller's thread, so a signal ends it at once. Raises TransferError if the file
    has another digest, and removes the file. Raises CheckpointError if more than `size` bytes arrive.
    Errors of the client are raised unchanged.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import disable_progress_bars, logging

    if path.exists():
        return
    disable_progress_bars()
    logging.set_verbosity_error()  # of its attempts: `report` says how far it is, and an error why it ends
    constants.DOWNLOAD_CHUNK_SIZE = CHUNK
    part = _part_of(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    if size_of(path) > (size or 0) and (size is not None or digest is None):  # too long, or nothing checks it
        part.unlink()
    with _Part(part, size, report) as file:
        if size is not None or digest is None or not has_digest(part, digest):
            # Compressed on its way, a file would have other places than the range that is asked for.
            asked = {**headers, "Accept-Encoding": "identity"}
            http_get(url, file, resume_size=file.tell(), headers=asked, expected_size=size)
        os.fsync(file.fileno())
        if digest is not None and not has_digest(part, digest):
            part.unlink()
            raise TransferError(
                f"the download {path.name} must have the hash {digest}, but its hash differs: try again"
            )
    part.rename(path)


def has_digest(path: Path, digest: str) -> bool:
    """Return whether a file has this digest. A digest is a sha256 or, if it is shorter, git's SHA-1 of a
    header and the file.
    """
    import hashlib  # it loads OpenSSL, for which a run over a bundle has no use

    with path.open("rb") as file:
        if len(digest) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
        head = b"blob %d\0" % path.stat().st_size
        git = hashlib.file_digest(file, lambda: hashlib.sha1(head, usedforsecurity=False))
        return git.hexdigest() == digest


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


class _Part(io.FileIO):
    """The partial file to which the client writes. It refuses more bytes than the file may have, and writes
    without a buffer.
    """

    def __init__(self, path: Path, size: int | None, report: Callable[[int], None]) -> None:
        super().__init__(path, "ab")
        self._size, self._report = size, report

    def write(self, data: bytes) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        if self._size is not None and self.tell() + len(data) > self._size:
            raise CheckpointError(
                f"the download {Path(str(self.name)).stem} may have at most {self._size} bytes, but the "
                "server sent more"
            )
        rest = memoryview(data)
        while rest:
            rest = rest[super().write(rest) :]
        self._report(self.tell())
        return len(data)

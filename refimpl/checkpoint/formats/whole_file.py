"""Write a file so that a failure never leaves half of it."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write the bytes to a file beside `path`, wait until they are on disk, and rename this file to `path`.

    `mode` is the file's permissions, from which the process's umask is still removed. After a failure, such
    as a full disk, the old file at `path` is still there. Raises OSError.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.unlink(missing_ok=True)  # of a process that was killed; one that is there would keep its mode
        with open(new, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)

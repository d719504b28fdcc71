"""Read the file of a server's keys."""

from __future__ import annotations

from pathlib import Path

from ...refimpl.errors import ArgumentError

KEY_BYTES = 2**16


def read_keys(file: Path) -> list[str]:
    """Return the API keys in a file, one from each line. Raises ArgumentError if the file contains no keys or
    other text.
    """
    with open(file, encoding="utf-8") as opened:
        text = opened.read(KEY_BYTES + 1)
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if not keys or len(text) > KEY_BYTES or not all(key.isascii() and key.isprintable() for key in keys):
        raise ArgumentError(
            f"{file} must have one API key of printable ASCII on each line, and at most {KEY_BYTES} "
            "characters in all"
        )
    return keys

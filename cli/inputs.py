"""Many texts from where they were given: arguments, the lines of a file, or stdin."""

from __future__ import annotations

import sys
from pathlib import Path

import typer


def read(given: list[str] | None, file: Path | None, what: str = "text") -> list[str]:
    """The texts; a usage error where there are none, where they come from two places, or one is blank."""
    if given and file is not None:
        raise typer.BadParameter(f"give each {what} as argument or in a --file, not both")
    texts = given or lines(file, what)
    for i, text in enumerate(texts):
        if not text.strip():
            raise typer.BadParameter(f"{what} {i + 1} is empty")
    if not texts:
        raise typer.BadParameter(f"give a {what}: as argument, with --file, or on stdin")
    return texts


def lines(file: Path | None, what: str) -> list[str]:
    """The lines of a file, or of stdin."""
    text = whole(file, what)
    return text.split("\n") if text else []


def whole(file: Path | None, what: str) -> str:
    """The text of a file or of stdin, line ends being "\\n"; as in a shell's $(…), the last is no part."""
    if file is None and sys.stdin.isatty():
        raise typer.BadParameter(f"give a {what}: as argument, with --file, or on stdin")
    data = sys.stdin.buffer.read() if file is None else file.read_bytes()
    try:
        return data.decode("utf-8").replace("\r\n", "\n").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"the {what} must be UTF-8: {error}") from None

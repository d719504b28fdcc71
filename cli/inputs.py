"""Reads texts from the user: arguments, a file, or stdin."""

from __future__ import annotations

import sys
from pathlib import Path

import typer


def read(arguments: list[str] | None, file: Path | None, what: str = "text") -> list[str]:
    """Many texts: the arguments, or the lines of the file or of stdin.

    A usage error where there are none, where they come from two places, or where one is blank.
    """
    if arguments and file is not None:
        raise typer.BadParameter(f"give each {what} as argument or in a --file, not both")
    texts = arguments or lines(file, what)
    for i, text in enumerate(texts):
        if not text.strip():
            raise typer.BadParameter(f"{what} {i + 1} is empty")
    if not texts:
        raise typer.BadParameter(f"give a {what}: as argument, with --file, or on stdin")
    return texts


def read_prompt(argument: str | None, file: Path | None) -> str:
    """One text: the argument, or all of the file or of stdin; a usage error where it is blank."""
    if argument is not None and file is not None:
        raise typer.BadParameter("give the prompt as argument or as --file, not both")
    text = read_all(file, "prompt") if argument is None else argument
    if not text.strip():
        raise typer.BadParameter("the prompt is empty")
    return text


def lines(file: Path | None, what: str) -> list[str]:
    """The lines of a file, or of stdin."""
    text = read_all(file, what)
    return text.split("\n") if text else []


def read_all(file: Path | None, what: str) -> str:
    """The content of a file or of stdin with "\\n" as line end, without the last line end, as in a shell's
    $(…)."""
    if file is None and sys.stdin.isatty():
        raise typer.BadParameter(f"give a {what}: as argument, with --file, or on stdin")
    data = sys.stdin.buffer.read() if file is None else file.read_bytes()
    try:
        return data.decode("utf-8").replace("\r\n", "\n").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"the {what} must be UTF-8: {error}") from None

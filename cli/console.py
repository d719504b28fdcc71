"""What reaches the terminal: results on stdout, everything else on stderr, nothing from a file raw."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import typer

BAR = 30  # characters of a bar
QUIET_S = 10  # between lines of progress where there is no terminal


def _unsafe(character: str) -> bool:
    """C0, DEL and C1 steer a terminal; the bidirectional overrides and isolates reorder what it shows."""
    code = ord(character)
    return code < 0x20 or 0x7F <= code < 0xA0 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069


def escape(text: str, keep: str = "") -> str:
    """The text with each character that could steer a terminal spelt out, but for those in `keep`."""
    return "".join(c.encode("unicode_escape").decode() if _unsafe(c) and c not in keep else c for c in text)


def generated(text: str, raw: bool) -> str:
    """A model's text as stdout gets it: escaped where a terminal would act on it."""
    return text if raw or not sys.stdout.isatty() else escape(text, keep="\n\t")


def line(text: str, raw: bool) -> str:
    """A model's text as one line of many: backslashes and control characters as Python spells them."""
    return text if raw else escape(text.replace("\\", "\\\\"))


def out(text: str = "", end: str = "\n") -> None:
    """The result, or a piece of it, at once; exit code 141, as a shell has it, when the reader has left."""
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more as it ends, and would fail on what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def say(message: str) -> None:
    """One line of progress or warning."""
    typer.echo(escape(message), err=True)


def progress() -> Callable[[int, int], None]:
    """Tells how much is done: a bar at a terminal, else a line now and then; nothing of what ends at once."""
    begin = time.monotonic()
    told = begin

    def tell(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if sys.stderr.isatty():
            if done < total or told > begin:
                filled = BAR * done // total
                bar = "#" * filled + "." * (BAR - filled)
                sys.stderr.write(f"\r[{bar}] {done} of {total}" + ("\n" if done == total else ""))
                sys.stderr.flush()
                told = now
        elif now - told >= QUIET_S and done < total:
            say(f"{done} of {total}")
            told = now

    return tell


def out_json(value: Any) -> None:
    """The result as one JSON value; NaN is no JSON, and nothing here may be NaN."""
    out(json.dumps(value, indent=2, allow_nan=False))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Rows under a head, in columns as wide as their widest cell; what begins with a digit to the right."""
    cells = [[escape(str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(head), *cells]) for i in range(len(head))]
    right = [bool(cells) and all(row[i][:1].isdigit() for row in cells) for i in range(len(head))]
    for line in [list(head), *cells]:
        parts = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True))
        out("  ".join(parts).rstrip())


def size(count: float) -> str:
    """Bytes for a person: 134.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

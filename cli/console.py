"""Output: results on stdout, everything else on stderr, and no characters that could steer a terminal."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ..runtime.tasks import TextStream

BAR = 30  # characters of a progress bar
QUIET_S = 10  # between two lines of progress where there is no terminal


def _unsafe(character: str) -> bool:
    """C0, DEL and C1 steer a terminal; bidirectional overrides and isolates reorder what it shows."""
    code = ord(character)
    return code < 0x20 or 0x7F <= code < 0xA0 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069


def escape(text: str, keep: str = "") -> str:
    """The text with each character that could steer a terminal as an escape, except those in `keep`."""
    return "".join(c.encode("unicode_escape").decode() if _unsafe(c) and c not in keep else c for c in text)


def generated(text: str, raw: bool) -> str:
    """A model's text for stdout: escaped if stdout is a terminal, which would act on it."""
    return text if raw or not sys.stdout.isatty() else escape(text, keep="\n\t")


def line(text: str, raw: bool) -> str:
    """A model's text as one of many lines: backslashes and control characters become Python escapes."""
    return text if raw else escape(text.replace("\\", "\\\\"))


def out(text: str = "", end: str = "\n") -> None:
    """Print the result or a part of it at once; exit with 141, as in a shell, if the reader has left."""
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more as it ends, and would fail on what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def say(message: str) -> None:
    """Print one line of progress or a warning."""
    typer.echo(escape(message), err=True)


def progress() -> Callable[[int, int], None]:
    """A function that shows how much is done: a bar at a terminal, else a line now and then.

    Work that takes no time shows nothing.
    """
    begin = time.monotonic()
    last_shown = begin

    def show(done: int, total: int) -> None:
        nonlocal last_shown
        now = time.monotonic()
        if sys.stderr.isatty():
            if done < total or last_shown > begin:
                filled = BAR * done // total
                bar = "#" * filled + "." * (BAR - filled)
                sys.stderr.write(f"\r[{bar}] {done} of {total}" + ("\n" if done == total else ""))
                sys.stderr.flush()
                last_shown = now
        elif now - last_shown >= QUIET_S and done < total:
            say(f"{done} of {total}")
            last_shown = now

    return show


def out_json(value: object) -> None:
    """Print the result as one JSON value; JSON has no NaN, and no result may have one."""
    out(json.dumps(value, indent=2, allow_nan=False))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a head; columns whose cells all begin with a digit are aligned to the right."""
    cells = [[escape(str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(head), *cells]) for i in range(len(head))]
    right = [bool(cells) and all(row[i][:1].isdigit() for row in cells) for i in range(len(head))]
    for line in [list(head), *cells]:
        parts = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True))
        out("  ".join(parts).rstrip())


def size(count: float) -> str:
    """A number of bytes for a person: 134.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def shorten(text: str, room: int = 60) -> str:
    """The text, or its beginning where a table has no room for more."""
    return text if len(text) <= room else text[: room - 1] + "…"


def out_answer(answer: TextStream, *, as_json: bool, no_escape: bool, load_s: float) -> None:
    """Print an answer while it is generated, or at its end as one JSON object."""
    for part in answer:
        if not as_json:
            out(generated(part, no_escape), end="")
    if not as_json:
        out()
        return
    out_json(
        {
            "tokens": answer.tokens,
            "text": answer.text,
            "finish_reason": answer.finish_reason,
            "timings": {"load_s": load_s, **answer.timings},
        }
    )

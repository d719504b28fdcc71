"""Print results on stdout and everything else on stderr, without characters that could control a terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..runtime.progress import InBytes

if TYPE_CHECKING:
    from ..runtime.progress import Progress
    from ..runtime.tasks import Completion, TextStream

NUMBERS = re.compile(r"\[\n([-+.\deE,\s]+)\n\s*\]")  # a list of them in indented JSON; no text has a line end
QUIET_S = 10  # between two lines of progress where there is no terminal
REWRITE_S = 0.1  # between two states of a line that is rewritten in place


def _unsafe(character: str) -> bool:
    """Return whether a character could control or mislead a terminal: C0, DEL and C1 control it, and
    bidirectional overrides and isolates reorder the text.
    """
    code = ord(character)
    return code < 0x20 or 0x7F <= code < 0xA0 or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069


def escape(text: str, keep: str = "") -> str:
    """Escape all characters of a text that could control a terminal, except the ones in `keep`."""
    return "".join(c.encode("unicode_escape").decode() if _unsafe(c) and c not in keep else c for c in text)


def generated(text: str, raw: bool) -> str:
    """Return a model's text for stdout. On a terminal, control characters are escaped."""
    return text if raw or not sys.stdout.isatty() else escape(text, keep="\n\t")


def line(text: str, raw: bool) -> str:
    """Return a model's text as a single line, with backslashes and control characters as Python escapes."""
    return text if raw else escape(text.replace("\\", "\\\\"))


def out(text: str = "", end: str = "\n") -> None:
    """Print a result, or a part of a result, at once. If the reader has closed the pipe, exit with code 141,
    as shells do.
    """
    LINE.end()
    try:
        sys.stdout.write(text + end)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more as it ends, and would fail on what is still buffered.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


class _Line:
    """A line at a terminal that is rewritten in place until something else is printed below the line."""

    def __init__(self) -> None:
        self.is_open = False
        self._width = 0

    def rewrite(self, text: str) -> None:
        """Replace the current line by this text, cut to the terminal's width."""
        text = escape(text)[: shutil.get_terminal_size().columns - 1]
        sys.stderr.write("\r" + text.ljust(self._width))
        sys.stderr.flush()
        self.is_open, self._width = True, len(text)

    def end(self) -> None:
        """Keep the current line on the screen, so that the next text begins below the line."""
        if self.is_open:
            sys.stderr.write("\n")
            sys.stderr.flush()
        self.is_open, self._width = False, 0


LINE = _Line()


class _Detail:
    """How many messages are printed besides results. `verbose` is the value of --verbose."""

    verbose = False


DETAIL = _Detail()


def say(message: str = "") -> None:
    """Print a line of progress or a warning on stderr."""
    LINE.end()
    typer.echo(escape(message), err=True)


def in_folder(path: Path | None) -> Path | None:
    """Check, before the work begins, that the directory of an output file exists. Raises a usage error if the
    directory doesn't exist.
    """
    if path is not None and not path.parent.is_dir():
        raise typer.BadParameter(f"{path.parent} must be an existing directory")
    return path


def duration(seconds: float) -> str:
    """Return a number of seconds as text, such as 45 s or 2 min 5 s."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def rewrites() -> bool:
    """Return whether a line on stderr can be rewritten in place, as in a terminal or a notebook."""
    return sys.stderr.isatty() or type(sys.stderr).__module__.startswith("ipykernel")


def work_in_one_line(what: str) -> Progress:
    """Return a Progress that shows all stages of some work on one line: the work's name `what` and the
    current stage.

    If lines can't be rewritten in place, the Progress prints one line at the beginning, and then every
    QUIET_S seconds a line with the progress so far. With --verbose, each stage has its own line, as in
    `progress`.
    """
    return progress() if DETAIL.verbose else _Work(what)


class _Work:
    """The Progress that `work_in_one_line` returns."""

    def __init__(self, what: str) -> None:
        self._what, self._stage, self._shown = what, "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now, line = time.monotonic(), f"{self._what}: {stage}"
        if 0 < done < total:
            line += f", {100 * done // total} %"
        if rewrites():
            if stage == self._stage and now - self._shown < REWRITE_S:
                return
            LINE.rewrite(line)
        elif not self._stage:
            say(self._what)
        elif now - self._shown < QUIET_S:
            return
        else:
            say(line)
        self._stage, self._shown = stage, now


def progress() -> Progress:
    """Return a Progress that shows on stderr the current stage, its share, the time taken and the time left.

    At a terminal, a stage with a known size has one line, which is rewritten in place. Elsewhere, one line
    reports the beginning of the stage, and every QUIET_S seconds another line states the progress so far. A
    stage that is already complete at its first report isn't shown.
    """
    return _Stages()


class _Stages:
    """The Progress that `progress` returns. It stores the stage of the last call."""

    def __init__(self) -> None:
        self._stage, self._done = "", 0
        self._begin = self._shown = self._called = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        begins = stage != self._stage or done < self._done
        if begins:
            LINE.end()
            self._begin = self._shown = now if done == 0 else self._called
        self._stage, self._done, self._called = stage, done, now
        finished = 0 < total <= done
        if total and rewrites():
            if LINE.is_open or not finished:
                if begins or finished or now - self._shown >= REWRITE_S:
                    LINE.rewrite(self._text(stage, done, total))
                    self._shown = now
                if finished:
                    LINE.end()
        elif begins and done == 0:
            say(stage)
        elif now - self._shown >= QUIET_S and not finished:
            say(self._text(stage, done, total))
            self._shown = now

    def _text(self, stage: str, done: int, total: int) -> str:
        took = self._called - self._begin
        if not total:
            return f"{stage}: {done:,}, {duration(took)}"
        left = f", {duration(took * (total - done) / done)} left" if 0 < done < total else ""
        if isinstance(stage, InBytes) and took > 0:
            left = f", {size(done / took)}/s{left}"
        return f"{stage}: {100 * done // total} %, {duration(took)}{left}"


def out_json(value: object) -> None:
    """Print a result as one JSON value, with each list of numbers on one line.

    JSON has no NaN, so the result must not contain NaN.
    """
    text = json.dumps(value, indent=2, allow_nan=False)
    out(NUMBERS.sub(lambda match: f"[{' '.join(match[1].split())}]", text))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows below a header. A column is right-aligned if each of its cells begins with a digit."""
    cells = [[escape(str(cell)) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(head), *cells]) for i in range(len(head))]
    right = [bool(cells) and all(row[i][:1].isdigit() for row in cells) for i in range(len(head))]
    for line in [list(head), *cells]:
        parts = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True))
        out("  ".join(parts).rstrip())


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows and their header as a Markdown table."""
    for line in (head, ["---"] * len(head), *rows):
        out("| " + " | ".join(escape(str(cell)).replace("|", "\\|") for cell in line) + " |")


def size(count: float) -> str:
    """Return a number of bytes as text, such as 134.5 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def shorten(text: str, room: int = 60) -> str:
    """Return a text for a table cell. A text that is too long is cut."""
    return text if len(text) <= room else text[: room - 1] + "…"


def speed(answer: TextStream) -> str:
    """Return how long an answer took, as text."""
    t = answer.timings
    read = t["prompt_tokens"] - t["cached_tokens"]
    return (
        f"prompt: {read:.0f} tokens in {t['first_token_s']:.2f} s, {t['prefill_tokens_per_s']:.1f} tokens/s; "
        f"answer: {t['new_tokens']:.0f} tokens, {t['decode_tokens_per_s']:.1f} tokens/s; "
        f"total: {t['total_s']:.2f} s"
    )


def out_answer(
    answer: TextStream,
    *,
    as_json: bool,
    no_escape: bool,
    load_s: float,
    by: dict[str, str],
    tools: bool = False,
) -> None:
    """Print an answer piece by piece while it is generated, or at the end as one JSON object.

    Also print a note if the answer was cut off and, with --verbose, the speed of the generation. If `tools`
    are given, the answer may contain calls.
    """
    for part in with_calls(answer) if tools else answer:
        if not as_json:
            out(generated(part, no_escape), end="")
    if not as_json:
        out()
    else:
        out_json(
            {**answer_fields(answer, tools=tools), **by, "timings": {"load_s": load_s, **answer.timings}}
        )
    if DETAIL.verbose and not as_json:
        say(speed(answer))
    if answer.finish_reason != "length":
        return
    count = len(answer.tokens)
    if count < answer.max_new_tokens:
        room = len(answer.prompt) + count
        say(f"the answer is clipped to {count} tokens: prompt and answer fill the context of {room} tokens")
    elif not as_json:  # there finish_reason says it
        say(f"the answer reached its limit of {count} tokens: raise --max-new-tokens for a longer answer")


def with_calls(answer: TextStream) -> Iterator[str]:
    """Yield the thoughts and the text of an answer as they are generated, and each call on a line of its own,
    as `name(arguments)`.
    """
    before, call = "", ""
    for kind, text in answer.events():
        if kind in ("thought", "text"):
            yield f"\n{text}" if before not in ("", kind) else text
            before = kind
        elif kind == "end":
            yield f"\n{call})" if before else f"{call})"
            before = "call"
        else:
            call = f"{text}(" if kind == "name" else call + text


def answer_fields(answer: TextStream | Completion, *, tools: bool = False) -> dict[str, object]:
    """Return the fields of an answer for JSON.

    The fields include log-probabilities if log-probabilities were requested. With `tools`, the fields include
    the model's thoughts, its text and its calls.
    """
    fields: dict[str, object] = {
        "tokens": answer.tokens,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
    }
    if tools and answer.answer is not None:
        thoughts, text, calls = answer.answer
        named = [{"name": name, "arguments": json.loads(arguments)} for name, arguments in calls]
        fields |= {"text": text, "thoughts": thoughts, "calls": named}
    if answer.logprobs is None:
        return fields
    return {**fields, "logprobs": [one._asdict() for one in answer.logprobs]}

"""Read the user's texts from arguments, a file, or stdin."""

from __future__ import annotations

import io
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import typer

from ..refimpl.errors import LimitError
from .console import say

# Bytes that are read: of a prompt four for each character that a tokenizer takes; of lines; of a schema.
PROMPT, LINES, SCHEMA = 64 * 2**20, 256 * 2**20, 2**20
PATIENCE_S = 2  # with a pipe, before a person is told what is waited for


def read(
    arguments: list[str] | None, file: Path | None, what: str = "text", *, stdin_is_other: bool = False
) -> list[str]:
    """Read several texts from the arguments, or otherwise from the lines of the file or of stdin.

    Raises a usage error if no texts are given, if texts come from two places, or if a text is blank. With
    `stdin_is_other`, stdin may contain something else while the texts come from the arguments or the file.
    """
    if arguments and file is not None:
        raise typer.BadParameter(f"give each {what} as argument or in a --file, not both")
    texts = arguments or lines(file, what)
    for i, text in enumerate(texts):
        if not text.strip():
            # Results go by line: one that was left out would shift the others.
            hint = "" if arguments else "; to remove empty lines, use grep '[^[:space:]]'"
            raise typer.BadParameter(f"{what} {i + 1} is empty{hint}")
        require_utf8(text, f"{what} {i + 1}")
    if not texts:
        raise typer.BadParameter(f"the {what} is missing: give it as argument, with --file, or on stdin")
    if (arguments or file is not None) and not stdin_is_other:
        refuse_piped(what)
    return texts


def read_prompt(argument: str | None, file: Path | None, *, goes_on: bool = False) -> str:
    """Read one text from the argument, or otherwise from the whole file or all of stdin. A blank text is a
    usage error.

    If an argument is given, a text that is also piped is a usage error. With `goes_on`, the piped text is
    instead appended to the argument after a blank line.
    """
    if argument is not None and file is not None:
        raise typer.BadParameter("give the prompt as argument or as --file, not both")
    if goes_on and argument is not None and is_piped() and (piped := read_all(None, "prompt")).strip():
        return f"{read_prompt(argument, None)}\n\n{piped}"
    if argument is not None or file is not None:
        refuse_piped("prompt")
    text = read_all(file, "prompt") if argument is None else argument
    if not text.strip():
        raise typer.BadParameter("the prompt is empty: give it as argument, with --file, or on stdin")
    require_utf8(text, "the prompt")
    return text


def is_piped() -> bool:
    """Return whether the shell connected stdin to a text: a file, or a pipe that isn't empty. The function
    waits until the pipe contains data or ends.

    Returns False for a terminal, a device, or a silent socket. Other programs connect such sockets to stdin
    and leave them open.
    """
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except io.UnsupportedOperation:  # a notebook's: no text is led there
        return False
    if stat.S_ISFIFO(mode) and not _comes(PATIENCE_S):
        say("waiting for the text on stdin; if no text comes, add </dev/null to the command")
    leads = stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or (stat.S_ISSOCK(mode) and _comes(0))
    return leads and sys.stdin.buffer.peek(1) != b""  # pyright: ignore[reportAttributeAccessIssue]


def _comes(seconds: float) -> bool:
    """Return whether stdin contains data or ends within a time."""
    return os.name == "nt" or bool(select.select([sys.stdin], [], [], seconds)[0])  # it knows no pipes there


def refuse_piped(what: str) -> None:
    """Raise a usage error if a text is piped to a command that already has its texts, because the piped text
    would be ignored.
    """
    if is_piped():
        raise typer.BadParameter(
            f"the command already has the {what}, so stdin must have no text: add </dev/null to the command"
        )


def require_utf8(text: str, what: str) -> None:
    """Raise a usage error if an argument contains bytes that aren't UTF-8, which Python represents as
    surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter(
            f"{what} must be UTF-8, but character {error.start + 1} isn't UTF-8"
        ) from None


def lines(file: Path | None, what: str) -> list[str]:
    """Return the lines of a file, or of stdin."""
    text = read_all(file, what, LINES)
    return text.split("\n") if text else []


def read_all(file: Path | None, what: str, limit: int = PROMPT) -> str:
    r"""Return the whole text of a file or of stdin. Line ends become "\n", and the last line end is removed,
    as in a shell's $(…).

    Raises LimitError for more than `limit` bytes, because a device such as /dev/zero never ends.
    """
    if file is None and sys.stdin.isatty():
        raise typer.BadParameter(f"the {what} is missing: give it as argument, with --file, or on stdin")
    with nullcontext(sys.stdin.buffer) if file is None else file.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise LimitError(f"the {what} may have at most {limit} bytes, but it has more")
    try:
        return data.decode("utf-8").replace("\r\n", "\n").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"the {what} must be UTF-8: {error}") from None


def messages() -> Iterator[str]:
    """Yield each line of stdin that isn't blank, as soon as the line arrives.

    Raises a usage error if a line isn't UTF-8, and LimitError if a line is longer than a prompt may be.
    """
    for number, data in enumerate(iter(lambda: sys.stdin.buffer.readline(PROMPT + 1), b""), 1):
        if len(data) > PROMPT:
            raise LimitError(f"line {number} of stdin may have at most {PROMPT} bytes, but it has more")
        try:
            text = data.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise typer.BadParameter(f"line {number} of stdin must be UTF-8: {error}") from None
        if text.strip():
            yield text


def _parsed(text: str, place: str, kind: type, must: str) -> Any:
    """Parse a text as JSON of this type, or raise a usage error. `must` says what the text at `place` must
    contain.
    """
    from ..refimpl.checkpoint.formats.strict_json import parse
    from ..refimpl.errors import ArgumentError

    value = parse(text, place, ArgumentError)
    if not isinstance(value, kind):
        raise ArgumentError(f"{place} must contain {must}, got {value!r:.80}")
    return value


def read_schema(given: str) -> dict[str, Any]:
    """Return a JSON schema, given as the schema itself or as the name of a file with the schema.

    Raises a usage error if the schema isn't supported, before a model is loaded.
    """
    from ..runtime.text.constraints import check, of_schema

    place, text = "--json-schema", given
    if not given.lstrip().startswith("{"):
        place, file = given, Path(given)
        if not file.is_file():
            raise typer.BadParameter(
                f"--json-schema must be an existing file, or a schema in braces {{…}}, got {given!r:.80}"
            )
        text = read_all(file, "schema", SCHEMA)
    schema = _parsed(text, place, dict, "a JSON schema, an object")
    check(of_schema(schema))
    return schema


def read_tools(file: Path) -> list[dict[str, Any]]:
    """Read the functions in a file, in the OpenAI API's format.

    Raises a usage error if the format is wrong, before a model is loaded.
    """
    from ..runtime.text.chat_answers import schemas

    tools = _parsed(read_all(file, "tools", SCHEMA), str(file), list, "a list of tools")
    schemas(tools)
    return tools


def read_grammar(file: Path) -> str:
    """Read the grammar in a file. Raises a usage error if the grammar isn't supported, before a model is
    loaded.
    """
    return check_language("grammar", read_all(file, "grammar", SCHEMA))


def check_language(kind: Literal["grammar", "regex"], text: str) -> str:
    """Return the text of a grammar or regular expression unchanged. Raises a usage error if it isn't
    supported.
    """
    from ..runtime.text.constraints import Language, check

    check(Language(kind, text))
    return text

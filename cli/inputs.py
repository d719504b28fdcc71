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
    """Read several texts: the arguments, or otherwise the lines of the file or of stdin.

    Raises a usage error if there are no texts, if they come from two places, or if one is blank. With
    `stdin_is_other`, a text that is piped beside the arguments or the file isn't an error.
    """
    if arguments and file is not None:
        raise typer.BadParameter(f"give each {what} as argument or in a --file, not both")
    texts = arguments or lines(file, what)
    for i, text in enumerate(texts):
        if not text.strip():
            # Results go by line: one that was left out would shift the others.
            hint = "" if arguments else "; grep '[^[:space:]]' leaves empty lines out"
            raise typer.BadParameter(f"{what} {i + 1} is empty{hint}")
        require_utf8(text, f"{what} {i + 1}")
    if not texts:
        raise typer.BadParameter(f"the {what} is missing: give it as argument, with --file, or on stdin")
    if (arguments or file is not None) and not stdin_is_other:
        refuse_piped(what)
    return texts


def read_prompt(argument: str | None, file: Path | None, *, goes_on: bool = False) -> str:
    """Read one text: the argument, or otherwise the whole file or all of stdin. A blank text is a usage
    error.

    A text that is piped beside an argument is refused. With `goes_on`, it is appended to the argument
    instead, after a blank line.
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
    """Return whether stdin has a text from the shell: a file, or a pipe that isn't empty. This waits until a
    pipe has data or ends.

    Returns False for a terminal, a device, or a silent socket, which other programs connect to stdin and
    leave open.
    """
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except io.UnsupportedOperation:  # a notebook's: no text is led there
        return False
    if stat.S_ISFIFO(mode) and not _comes(PATIENCE_S):
        say("waiting for the text on stdin; </dev/null says that there is none")
    leads = stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or (stat.S_ISSOCK(mode) and _comes(0))
    return leads and sys.stdin.buffer.peek(1) != b""  # pyright: ignore[reportAttributeAccessIssue]


def _comes(seconds: float) -> bool:
    """Whether stdin has something to read, or its end, within a time."""
    return os.name == "nt" or bool(select.select([sys.stdin], [], [], seconds)[0])  # it knows no pipes there


def refuse_piped(what: str) -> None:
    """Raise a usage error if a text is piped to a command that already has its texts, since the piped text
    would be ignored.
    """
    if is_piped():
        raise typer.BadParameter(
            f"the {what} is already given, so the text on stdin isn't read: add </dev/null"
        )


def require_utf8(text: str, what: str) -> None:
    """Raise a usage error for an argument with bytes that aren't UTF-8. Python reads them as surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter(
            f"{what} must be UTF-8, but it isn't at character {error.start + 1}"
        ) from None


def lines(file: Path | None, what: str) -> list[str]:
    """Read the lines of a file, or of stdin."""
    text = read_all(file, what, LINES)
    return text.split("\n") if text else []


def read_all(file: Path | None, what: str, limit: int = PROMPT) -> str:
    """Read all of a file or of stdin. Line ends become "\\n". The last one is removed, as in a shell's $(…).

    Raises LimitError beyond `limit` bytes, because a device like /dev/zero has no end.
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
    """Yield the lines of stdin that aren't blank, each as soon as it arrives.

    Raises a usage error for a line that isn't UTF-8, and LimitError for one that is longer than a prompt may
    be.
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
    """JSON of this kind; a usage error for another. `must` says what its `place` has to have."""
    from ..refimpl.checkpoint.formats.strict_json import parse
    from ..refimpl.errors import ArgumentError

    value = parse(text, place, ArgumentError)
    if not isinstance(value, kind):
        raise ArgumentError(f"{place} must have {must}, got {value!r:.80}")
    return value


def read_schema(given: str) -> dict[str, Any]:
    """Return the JSON schema that is given, or that is in the file of this name.

    If the schema isn't supported, raises a usage error before a model is loaded.
    """
    from ..runtime.text.constraints import check, of_schema

    place, text = "--json-schema", given
    if not given.lstrip().startswith("{"):
        place, file = given, Path(given)
        if not file.is_file():
            raise typer.BadParameter(
                f"--json-schema must be a file or a schema {{…}}, but there is no file {given!r:.80}"
            )
        text = read_all(file, "schema", SCHEMA)
    schema = _parsed(text, place, dict, "a JSON schema, an object")
    check(of_schema(schema))
    return schema


def read_tools(file: Path) -> list[dict[str, Any]]:
    """Read the functions in a file, in the OpenAI API's form.

    For functions in another form, raises a usage error before a model is loaded.
    """
    from ..runtime.text.chat_answers import schemas

    tools = _parsed(read_all(file, "tools", SCHEMA), str(file), list, "a list of tools")
    schemas(tools)
    return tools


def read_grammar(file: Path) -> str:
    """Read the grammar in a file. If the grammar isn't supported, raise a usage error before a model is
    loaded.
    """
    return check_language("grammar", read_all(file, "grammar", SCHEMA))


def check_language(kind: Literal["grammar", "regex"], text: str) -> str:
    """Return the text of a grammar or regular expression. Raise a usage error if it isn't supported."""
    from ..runtime.text.constraints import Language, check

    check(Language(kind, text))
    return text

"""The terminal of a chat: a line editor, notes between the answers, and Ctrl-C to stop an answer.

The editor and the notes use stderr, so that stdout contains only the answers. Only this file imports
prompt_toolkit, and only if a person types the messages, because the import takes a tenth of a second.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .console import escape

if TYPE_CHECKING:
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    from ..runtime.tasks import TextStream

# ANSI colours by name, which a terminal's theme chooses; NO_COLOR=1 leaves them out.
PROMPT, NOTE, ERROR = "bold fg:ansigreen", "fg:ansicyan", "fg:ansired"


def is_interactive() -> bool:
    """Return whether a person can type messages: stdin and stderr must be a terminal that can move its
    cursor.
    """
    return sys.stdin.isatty() and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def history_file() -> Path | None:
    """Return the file that stores typed messages: the file that TFM_HISTORY names, or otherwise a file in the
    user's state folder.

    Returns None if TFM_HISTORY is empty.
    """
    path = os.environ.get("TFM_HISTORY")
    if path is not None:
        return Path(path) if path else None
    import platformdirs

    return Path(platformdirs.user_state_dir("tfm", appauthor=False)) / "chat_history"


class ChatTerminal:
    """A terminal that reads messages from a person, and shows notes to the person."""

    def __init__(self, history: Path | None) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.output import create_output

        self._output = create_output(stdout=sys.stderr)
        session: PromptSession[str] = PromptSession(
            [(PROMPT, "> ")],
            multiline=True,
            prompt_continuation="  ",
            key_bindings=_keys(),
            history=self._history(history),
            output=self._output,
        )
        self._session = session  # an annotation here would be one that the API pages can't read

    def _history(self, path: Path | None) -> History:
        """Return the history in a file that other users can't read. Without a file, or if the file can't be
        written, return a history for this run only."""
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        if path is None:
            return InMemoryHistory()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600))
        except OSError as error:
            self.note(f"what you type can't be saved for the next chat: {path}: {error.strerror}")
            return InMemoryHistory()
        return FileHistory(path)

    def read(self) -> str | None:
        """Return the next message that isn't blank, or None after Ctrl-D."""
        while True:
            try:
                text = self._session.prompt()
            except EOFError:
                return None
            except KeyboardInterrupt:
                self.note("Ctrl-D or /quit ends the conversation")
                continue
            if text.strip():
                # Bytes that aren't UTF-8 come as lone surrogates, which no tokenizer takes.
                return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")

    def note(self, text: str, style: str = NOTE) -> None:
        """Print lines on stderr that aren't part of an answer."""
        from prompt_toolkit import print_formatted_text
        from prompt_toolkit.formatted_text import FormattedText

        print_formatted_text(FormattedText([(style, escape(text, keep="\n"))]), output=self._output)

    def error(self, message: str) -> None:
        """Print an error in the form of the command line's errors."""
        self.note(f"tfm-cli: {message}", ERROR)


class Wrapping:
    """Breaks a text that arrives in pieces into lines, before each word that doesn't fit on its line.

    A word is held back until the word is complete or as wide as a line. A character of double width, as in
    Chinese or Japanese, counts as a word.
    """

    def __init__(self) -> None:
        self._word, self._column = "", 0
        self._inside = False  # the beginning of the word has been shown

    def push(self, text: str) -> str:
        """Add a piece of text, and return the text that can be printed now."""
        return "".join(map(self._added, text))

    def finish(self) -> str:
        """Return the part of the last word that was held back, at the end of the text."""
        shown, self._inside = self._shown(), False
        return shown

    def _added(self, character: str) -> str:
        if character == "\n":
            shown, self._column = self.finish(), 0
            return shown + character
        if character.isspace():
            shown = self.finish()
            self._column += 8 - self._column % 8 if character == "\t" else 1
            return shown + character
        if _width(character) > 1:
            shown, self._word = self.finish(), character
            return shown + self.finish()
        self._word += character
        if _width(self._word) < shutil.get_terminal_size().columns:
            return ""
        shown, self._inside = self._shown(), True
        return shown

    def _shown(self) -> str:
        """Return the held-back word, or its beginning. A word that doesn't fit begins a new line."""
        word, self._word = self._word, ""
        columns, end = shutil.get_terminal_size().columns, self._column + _width(word)
        breaks = 0 < self._column < end and columns < end and not self._inside
        end -= self._column * breaks
        self._column = end if end <= columns else (end - 1) % columns + 1  # the terminal breaks a long word
        return "\n" * breaks + word


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    from prompt_toolkit.utils import get_cwidth

    return get_cwidth(text)


def _keys() -> KeyBindings:
    """Return the key bindings: Enter sends the message, and Alt-Enter (or Escape, then Enter) begins a new
    line.
    """
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


@contextmanager
def silent_keys() -> Iterator[None]:
    """Hide keys that are pressed during an answer, so that they don't appear inside the answer.

    The keys are kept for the next message, even after Ctrl-C.
    """
    try:
        import termios
    except ImportError:  # Windows shows a key when it is read
        yield
        return
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    silent = termios.tcgetattr(keyboard)
    silent[0] &= ~termios.ICRNL  # else Alt-Enter would be another key than in the editor
    silent[3] = silent[3] & ~(termios.ECHO | termios.ICANON) | termios.NOFLSH
    termios.tcsetattr(keyboard, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


@contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C during a `with` block, except while the line editor or an answer handles Ctrl-C.

    At any other time, Ctrl-C would interrupt a step of the chat in its middle.
    """
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stopped_by_interrupt(answer: TextStream) -> Iterator[list[bool]]:
    """Let Ctrl-C stop an answer after the current token. The yielded list is empty until Ctrl-C is pressed.

    If stopping takes long, a second Ctrl-C raises KeyboardInterrupt.
    """
    stopped: list[bool] = []

    def stop(*_: object) -> None:
        if stopped:
            raise KeyboardInterrupt
        stopped.append(True)
        answer.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)

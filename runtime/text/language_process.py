"""Compile formal languages and follow the steps of texts in child processes. A hostile language can crash
only its own process, so only one request fails.

The program is `language_follower.py`. When tfm closes the connection or ends, a waiting child process finds
its socket closed, and ends. A busy child process ends when its time limit is reached.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...refimpl.errors import TfmError
from .bounded_program import SYSTEM_LIMITS_MEMORY, started
from .language_follower import receive, send

PROGRAM = Path(__file__).with_name("language_follower.py")
WAIT_S = 60.0  # for an answer: the kernel ends a busy process before, unless the machine is very busy too


@dataclass(frozen=True)
class Limits:
    """The limits of a child process: seconds of processor time to compile a language, seconds for a step of a
    text, and bytes of memory for both.
    """

    compile_s: float = 2.0
    step_s: float = 1.0
    memory: int = 256 * 2**20


LIMITS = Limits()


class EndedError(Exception):
    """Raised if a child process has ended or doesn't answer in time. The message is empty if the process has
    ended.
    """


class Connection:
    """A connection to a child process. When this object is deleted, the process ends."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(WAIT_S)
        self._socket = connection
        weakref.finalize(self, connection.close)

    def ask(self, request: bytes) -> bytes:
        """Send a request and return its first answer. Raises EndedError if no answer comes."""
        try:
            send(self._socket, request)
        except OSError as error:
            raise EndedError from error
        return self.answer()

    def answer(self) -> bytes:
        """Return the next answer. Raises EndedError if no answer comes."""
        try:
            answer = receive(self._socket)
        except TimeoutError:
            raise EndedError(
                f"the process that checks the constraint didn't answer for {WAIT_S:g} s"
            ) from None
        except OSError as error:
            raise EndedError from error
        if answer is None:
            raise EndedError
        return answer

    def copy(self) -> Connection:
        """Return a connection to a fork of this process, with the same state."""
        here, there = socket.socketpair()
        made = Connection(here)
        try:
            with there:
                socket.send_fds(self._socket, [b"c"], [there.fileno()])
        except OSError as error:
            raise EndedError from error
        return made


class FirstProcess(Connection):
    """The child process that has read the tokenizer and forks a process for each language.

    Raises ValueError for a tokenizer that the library can't read, TfmError if the process can't be
    started.
    """

    def __init__(self, settings: Mapping[str, object]) -> None:
        here, there = socket.socketpair()
        super().__init__(here)
        self._owner = os.getpid()
        try:
            with there:
                self._child = started(
                    PROGRAM, ("llguidance",), stdin=there.fileno(), stdout=subprocess.DEVNULL
                )
        except OSError as error:
            raise _no_child(str(error)) from None
        weakref.finalize(self, _end, self._child, self._owner)
        try:
            answer = json.loads(self.ask(json.dumps(settings).encode()))
        except EndedError:
            raise _no_child("the process ended at once") from None
        if answer["error"]:
            raise ValueError(answer["error"])

    @property
    def runs(self) -> bool:
        """Return whether the process runs as a child of the current process.

        After a fork of tfm, the result is False in the new process, since the process is still a child of the
        old one.
        """
        return self._owner == os.getpid() and self._child.poll() is None

    def compiled(self, kind: str, text: str, inner: tuple[str, str] | None = None) -> Connection:
        """Return a connection to a process that has compiled this language. Raises ValueError for a language
        that the library doesn't fully support.
        """
        process = self.copy()
        answer = json.loads(process.ask(json.dumps([kind, text, inner]).encode()))
        if "error" in answer:
            raise ValueError(answer["error"])
        return process


class LanguageProcess:
    """Compiles languages in a `FirstProcess`. If the process has ended, a new one is started."""

    def __init__(
        self,
        tokenizer: str | None = None,
        vocabulary: int = 0,
        stop_ids: Sequence[int] = (),
        limits: Limits = LIMITS,
    ) -> None:
        """Start the first process. Raises the same errors as `FirstProcess`."""
        self.limits = limits
        self._settings = {
            "tokenizer": tokenizer,
            "vocabulary": vocabulary,
            "stop_ids": list(stop_ids),
            "limits_memory": SYSTEM_LIMITS_MEMORY,
            **asdict(limits),
        }
        self._lock = threading.Lock()
        self._first = FirstProcess(self._settings)

    def compiled(self, kind: str, text: str, inner: tuple[str, str] | None = None) -> Connection:
        """Return a connection to a process that has compiled this language.

        Raises ValueError for a language that the library doesn't fully support, EndedError for a language
        that exceeds its limits, and TfmError if no process can be started.
        """
        with self._lock:
            if not self._first.runs:
                self._first = FirstProcess(self._settings)
            first = self._first
        return first.compiled(kind, text, inner)


def _end(child: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() == owner:
        child.kill()
        child.wait()
    else:
        child.returncode = 0  # nothing for this process to wait for


def _no_child(cause: str) -> TfmError:
    return TfmError(f"json_schema, regex and grammar need a child process, which can't run: {cause}")

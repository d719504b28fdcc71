"""A program at a pseudo-terminal: keys go in, what a person would see comes out. Linux and macOS."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from typing import IO

PATIENCE_S = 60  # only a test that fails waits so long

# A new session's leader gets the first terminal that it opens as its own, so that Ctrl-C reaches it.
CHILD = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); from tfm.cli.main import main; sys.exit(main())"


class PseudoTerminal:
    """`tfm-cli` with these arguments in a terminal of 24 lines of 80 characters."""

    def __init__(
        self, arguments: Sequence[object], environment: Mapping[str, str], stdout: IO[bytes] | None = None
    ) -> None:
        self._master, self._terminal = os.openpty()
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.modes = termios.tcgetattr(self._terminal)
        self.shown = b""
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *map(str, arguments)],
            stdin=self._terminal,
            stdout=self._terminal if stdout is None else stdout,
            stderr=self._terminal,
            start_new_session=True,
            # The program mustn't ask this terminal where its cursor is: nobody would answer.
            env={**os.environ, "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", **environment},
        )

    def __enter__(self) -> PseudoTerminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)
        os.close(self._terminal)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def wait_for(self, text: str) -> str:
        """What is shown until `text` comes, that included; the rest waits for the next call."""
        until = time.monotonic() + PATIENCE_S
        while text.encode() not in self.shown:
            self._read()
            assert time.monotonic() < until, f"no {text!r} in {PATIENCE_S} s, but {self.shown[-2000:]!r}"
        before, found, self.shown = self.shown.partition(text.encode())
        return (before + found).decode("utf-8", "replace")

    def wait_for_bytes(self, count: int) -> str:
        """What is shown until so many bytes came."""
        while len(self.shown) < count:
            self._read()
        shown, self.shown = self.shown, b""
        return shown.decode("utf-8", "replace")

    def wait_for_end(self) -> int:
        """The exit code. The terminal must be as it was."""
        until = time.monotonic() + PATIENCE_S
        while self._process.poll() is None:
            if select.select([self._master], [], [], 0.05)[0]:
                self._read()
            assert time.monotonic() < until, self.shown
        assert termios.tcgetattr(self._terminal) == self.modes, "the terminal isn't as it was"
        return self._process.returncode

    def _read(self) -> None:
        ready, _, _ = select.select([self._master], [], [], PATIENCE_S)
        assert ready, f"nothing came in {PATIENCE_S} s after {self.shown!r}"
        self.shown += os.read(self._master, 65536)

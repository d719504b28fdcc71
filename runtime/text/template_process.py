"""Render chat templates in a child process. If a hostile template ends the child, only one request fails.

The child runs `template_renderer.py`. tfm starts the child once, and the child answers each request in about
a millisecond. Ctrl-C at a terminal reaches only the parent process. The child ends when its parent does: it
finds that its input has ended or, if it is busy, it reaches its time limit.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...refimpl.errors import ArgumentError, CheckpointError, LimitError, TfmError
from .bounded_program import POSIX, SYSTEM_LIMITS_MEMORY, started

PROGRAM = Path(__file__).with_name("template_renderer.py")
START_S = 60.0  # until a child must be ready
LOOK_S = 0.02  # between two looks at the memory of a child that the system doesn't limit


@dataclass(frozen=True)
class Limits:
    """The limits of one request: seconds of processor time, seconds of waiting, bytes of memory, and
    characters of text."""

    cpu_s: float = 2.0
    wait_s: float = 2.5
    memory: int = 256 * 2**20
    output: int = 4 * 2**20


LIMITS = Limits()


class TemplateProcess:
    """The child process that renders templates. Any thread may use it; requests run one after another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._began_with: int | None = None  # its memory before the first request; None until it is ready

    def start(self) -> None:
        """Start the child unless it is already running. The caller doesn't wait until the child is ready.

        If the child can't be started, the error is raised only later, by `render`, since a model is useful
        without its template.
        """
        with self._lock, contextlib.suppress(TfmError):
            self._running()

    def render(self, template: str, variables: Mapping[str, object], limits: Limits) -> str:
        """Return the rendered text of a template; its variables must be JSON values.

        Raises CheckpointError if the template fails or exceeds its limits, LimitError if its text is too
        long, ArgumentError for a variable that isn't a JSON value, and TfmError if no child can be started.
        """
        try:
            request = json.dumps({"template": template, "variables": variables, **asdict(limits)})
        except (TypeError, ValueError, RecursionError) as error:
            raise ArgumentError(
                f"messages, tools and variables of a chat template must be JSON values: {error}"
            ) from None
        with self._lock:
            child = self._running()
            try:
                answer = self._ask(child, request.encode() + b"\n", limits)
            except BaseException:  # Ctrl-C too: the next request must not get the answer to this one
                self._end()
                raise
            if answer["last"]:
                self._end()
        if "length" in answer:
            raise LimitError(
                f"a rendered chat may have at most {limits.output} characters, but this chat has "
                f"{answer['length']}"
            )
        if "error" in answer:
            raise _failure(answer["error"])
        return answer["text"]

    def close(self) -> None:
        """End the child. The next request starts another one."""
        with self._lock:
            self._end()

    def forget(self) -> None:
        """Forget the child after a fork of this process, since the child belongs to the parent process."""
        child, self._child, self._began_with = self._child, None, None
        self._lock = threading.Lock()
        if child is not None:
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                pipe.close()  # while a copy of its input is open, the child wouldn't end with its parent
            child.returncode = 0  # nothing for this process to wait for

    def _running(self) -> subprocess.Popen[bytes]:
        """Return the child. If the child isn't running, start a new one."""
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._child = _started()
        return self._child

    def _end(self) -> None:
        child, self._child, self._began_with = self._child, None, None
        if child is not None:
            child.kill()
            child.communicate()

    def _ask(self, child: subprocess.Popen[bytes], request: bytes, limits: Limits) -> dict[str, Any]:
        """Send a request to the child, and return the answer. Raises CheckpointError if the child ends
        without an answer.
        """
        if self._began_with is None:
            if _read(child, replace(limits, wait_s=START_S)) != {"text": ""}:
                raise _no_child("the process ended at once")
            self._began_with = 0 if SYSTEM_LIMITS_MEMORY else _resident(child.pid)
        with contextlib.suppress(BrokenPipeError):  # it was killed: the answer is missing too
            _write(child, request, limits)
        answer = _read(child, limits, self._began_with)
        if answer is None:
            raise _failure(_cause_of_death(child.wait(), limits))
        return answer


def _started() -> subprocess.Popen[bytes]:
    """Start a new child, and return it without waiting until it is ready."""
    packages, pipe = ("jinja2", "markupsafe"), subprocess.PIPE
    try:
        return started(PROGRAM, packages, str(SYSTEM_LIMITS_MEMORY), stdin=pipe, stdout=pipe)
    except ModuleNotFoundError:
        raise _no_child("Jinja isn't installed") from None
    except OSError as error:
        raise _no_child(str(error)) from None


def _write(child: subprocess.Popen[bytes], request: bytes, limits: Limits) -> None:
    """Send a request to the child. Raises CheckpointError if the child doesn't read the request within the
    time limit.
    """
    assert child.stdin is not None
    os.set_blocking(child.stdin.fileno(), False)  # a pipe holds less than a long request
    rest, until = memoryview(request), time.monotonic() + limits.wait_s
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdin, selectors.EVENT_WRITE)
        while rest:
            if not selector.select(max(until - time.monotonic(), 0)):
                raise _failure(f"the process that renders the template read nothing for {limits.wait_s:g} s")
            rest = rest[os.write(child.stdin.fileno(), rest) :]


def _read(child: subprocess.Popen[bytes], limits: Limits, began_with: int = 0) -> dict[str, Any] | None:
    """Return the child's next answer, or None if the child has ended.

    Raises CheckpointError if the child exceeds its limits.
    """
    assert child.stdout is not None
    received, until = bytearray(), time.monotonic() + limits.wait_s
    most = 6 * limits.output + 4096  # bytes, where JSON writes each character as an escape
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ)
        while not received.endswith(b"\n"):
            left = max(until - time.monotonic(), 0)
            if selector.select(left if SYSTEM_LIMITS_MEMORY else min(left, LOOK_S)):
                part = os.read(child.stdout.fileno(), 2**20)
                if not part:
                    return None
                received += part
                if len(received) > most:
                    raise _failure(
                        f"the process that renders the template answered with more than {most} bytes"
                    )
            elif left == 0:
                raise _failure(f"rendering took more than {limits.wait_s:g} s")
            elif not SYSTEM_LIMITS_MEMORY and _resident(child.pid) > began_with + limits.memory:
                raise _failure(_too_large(limits))
    return json.loads(received)


def _resident(pid: int) -> int:
    """Return how many bytes of memory a process uses."""
    try:
        listed = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True)
        return 1024 * int(listed.stdout or 0)  # nothing of one that just ended
    except (OSError, ValueError) as error:
        raise _no_child(f"the memory of the child process can't be read: {error}") from None


def _cause_of_death(code: int, limits: Limits) -> str:
    if code == -signal.SIGPROF:
        return f"rendering took more than {limits.cpu_s:g} s of processor time"
    if code == -signal.SIGABRT:  # how the child ends where it gets no memory
        return _too_large(limits)
    return (
        f"the process that renders the template crashed ({signal.Signals(-code).name if code < 0 else code})"
    )


def _too_large(limits: Limits) -> str:
    return f"rendering took more than {limits.memory // 2**20} MB of memory"


def _failure(cause: str) -> CheckpointError:
    return CheckpointError(f"the chat template can't render this conversation: {cause}")


def _no_child(cause: str) -> TfmError:
    return TfmError(
        f"a chat template must be rendered in a child process, which can't run: {cause}; with raw=True "
        "no template is used"
    )


SHARED = TemplateProcess()
atexit.register(SHARED.close)
if POSIX:
    os.register_at_fork(after_in_child=SHARED.forget)

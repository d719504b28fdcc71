"""A headless Chromium, where one is installed."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
# What Chromium answers while one page replaces another.
NO_PAGE = ("Cannot find default execution context", "Inspected target navigated or closed")


def chromium() -> str | None:
    """The browser's path; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def run(page: Path, profile: Path, *options: str) -> str:
    """Open a page and return the browser's stdout."""
    program = chromium()
    assert program is not None, f"none of {', '.join(NAMES)} is on PATH: apt-get install chromium"
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    quiet = ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*command, *quiet, *options, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


class Tab:
    """A page that a test acts on, by Chromium's DevTools protocol over pipes."""

    def __init__(self, url: str, profile: Path, *more: str) -> None:
        program = chromium()
        assert program is not None, f"none of {', '.join(NAMES)} is on PATH: apt-get install chromium"
        (read, self._out), (self._in, write) = os.pipe(), os.pipe()
        options = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run"
        quiet = f"--disable-background-networking --disable-component-update --user-data-dir={profile}"
        options = " ".join((options, *more))
        # The protocol is spoken at descriptors 3 and 4.
        script = f'exec "$0" {options} {quiet} --remote-debugging-pipe about:blank 3<&{read} 4>&{write}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, program],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self._count, self._received = 0, b""
        target = self._call("Target.createTarget", url=url)["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.wait_for("location.href !== 'about:blank' && document.readyState === 'complete'")

    def __enter__(self) -> Tab:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def run(self, script: str) -> Any:
        """The value of an expression in the page; None while there is no page."""
        told = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told.get("result", {}).get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until an expression in the page is true."""
        end = time.monotonic() + 60
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, f"waited a minute for {condition}"
            time.sleep(0.02)

    def visit(self, url: str, before: str = "") -> None:
        """Open another page, or the same one again; a script runs before."""
        self.run(f"window.left = true; {before}; location.href = {json.dumps(url)}; 0")
        self.wait_for("!window.left && document.readyState === 'complete'")

    def press(self, key: str, text: str = "", *, shift: bool = False) -> None:
        """Press a key, which writes `text`."""
        held = {"key": key, "modifiers": 8 * shift}
        self.tell("Input.dispatchKeyEvent", type="keyDown", text=text, **held)
        self.tell("Input.dispatchKeyEvent", type="keyUp", **held)

    def screenshot(self) -> bytes:
        """The page as a PNG."""
        return base64.b64decode(self.tell("Page.captureScreenshot")["data"])

    def tell(self, method: str, **parameters: Any) -> Any:
        """What the page answers to a method of the protocol."""
        return self._call(method, self._session, **parameters)

    def _call(self, method: str, session: str | None = None, **parameters: Any) -> Any:
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        message |= {} if session is None else {"sessionId": session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._received:
                part = os.read(self._in, 2**16)
                assert part, "the browser has ended"
                self._received += part
            line, _, self._received = self._received.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._count:
                if answer.get("error", {}).get("message") in NO_PAGE:
                    return {}
                assert "error" not in answer, answer
                return answer["result"]

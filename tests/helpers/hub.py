"""A hub and a package index on this machine: the API that their clients ask, ranges, and lines that fail."""

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
BLOCK = 2**16


class Hub:
    """One repository, whatever its name, and one project, `pkg`, of which the test may change everything.

    `rate` bounds bytes a second, `cuts` is how many answers end after half of what was asked, `stalls` how
    many then wait for ever. The codes name the error that the API answers, that files are, and that they are
    after a cut; a number is the status itself. `asked` records each request for a file and where it began.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.wheels: dict[str, bytes] = {}
        self.rate, self.cuts, self.stalls = float("inf"), 0, 0
        self.ended = threading.Event()
        self.code = self.code_of_files = self.code_after_cuts = ""
        self.hashes = self.ranges = True
        self.asked: list[tuple[str, int]] = []
        self.url = ""

    def info(self) -> dict[str, Any]:
        return {"id": "org/name", "sha": COMMIT, "siblings": [self._about(name) for name in self.files]}

    def _about(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        about: dict[str, Any] = {"rfilename": name, "size": len(data)}
        if self.hashes and name.endswith((".json", ".md", ".txt")):
            about["blobId"] = hashlib.sha1(b"blob %d\0%b" % (len(data), data)).hexdigest()
        elif self.hashes:
            lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            about |= {"blobId": "0" * 40, "lfs": lfs}
        return about

    def project(self) -> dict[str, Any]:
        files = [
            {
                "filename": name, "url": f"{self.url}/files/{name}", "core-metadata": True,
                "hashes": {"sha256": hashlib.sha256(data).hexdigest()} if self.hashes else {},
            }
            for name, data in self.wheels.items()
        ]  # fmt: skip
        return {"meta": {"api-version": "1.0"}, "name": "pkg", "files": files}


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that answers until the end of the block."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr, which the tests read."""

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith("/api/models/"):
                self._refuse(hub.code) if hub.code else self._answer(json.dumps(hub.info()).encode())
            elif path == "/simple/pkg/":
                self._answer(json.dumps(hub.project()).encode(), "application/vnd.pypi.simple.v1+json")
            elif path.endswith(".metadata"):
                self._answer(b"Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n")
            elif hub.code_of_files:
                self._refuse(hub.code_of_files)
            elif path.startswith("/files/"):
                self._file(path, hub.wheels.get(path.removeprefix("/files/")))
            else:
                name = path.partition(f"/resolve/{COMMIT}/")[2]
                self._file(name, hub.files.get(name))

        def _refuse(self, code: str) -> None:
            if code.isdigit():
                self.send_response(int(code))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(401 if code == "RepoNotFound" else 403 if code == "GatedRepo" else 404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _answer(self, data: bytes, kind: str = "application/json") -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _file(self, name: str, data: bytes | None) -> None:
            if data is None:
                self._refuse("EntryNotFound")
                return
            asked = self.headers.get("Range") if hub.ranges else None
            begin = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            if self.command == "GET":
                hub.asked.append((name, begin))
            self.send_response(206 if asked else 200)
            if asked:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            if self.command == "GET":
                self._send(data[begin:])

        def _send(self, data: bytes) -> None:
            if hub.cuts:
                hub.cuts -= 1
                hub.code_of_files = hub.code_after_cuts
                data, self.close_connection = data[: len(data) // 2], True
            stalls, hub.stalls = hub.stalls > 0, max(0, hub.stalls - 1)
            for at in range(0, len(data), BLOCK):
                if stalls and at >= len(data) // 2:
                    self.close_connection = hub.ended.wait()
                    return
                block = data[at : at + BLOCK]
                try:
                    self.wfile.write(block)
                except OSError:  # the client has left
                    self.close_connection = True
                    return
                time.sleep(len(block) / hub.rate)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        server.server_close()

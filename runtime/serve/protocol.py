"""Speak HTTP on a connection, by uvicorn and h11, with two rules that these libraries leave to the server.

The first rule limits the number of parts in which a body may arrive. The second rule lets a client that
has closed its sending side still get its answer.
"""

from __future__ import annotations

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_BYTES = 64 * 2**10
MOST_PARTS = 2**15  # of a body: 800 bytes each fill the largest, and a network's packet has more
PROBE_S = 0.01  # until a second look at a client that ended its side; the next ones come more slowly
LONGEST_PROBE_S = 1.0


class BoundedConnection(h11.Connection):
    """A connection that refuses a body in more than MOST_PARTS parts, because even a part of one byte costs
    time.
    """

    _parts = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if event is not h11.NEED_DATA:
            self._parts = self._parts + 1 if isinstance(event, h11.Data) else 0
        if self._parts > MOST_PARTS:
            # uvicorn answers with 400.
            raise h11.RemoteProtocolError(
                f"the request's body may have at most {MOST_PARTS} parts, but it has more"
            )
        return event


class Protocol(H11Protocol):
    """uvicorn's protocol, except that a client still gets its answer after closing its sending side.

    Until the server sends something, it can't tell such a client from a client that has disconnected. So
    the server sends interim responses (status 1xx), which HTTP/1.1 clients ignore.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = BoundedConnection(h11.SERVER, HEADER_BYTES)

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride] (as asyncio has it)
        if not self._answering():
            return False
        self.cycle.keep_alive = False
        self._probe(PROBE_S)
        return True

    def _answering(self) -> bool:
        """Return whether a complete request is waiting for its answer."""
        waits = self.cycle is not None and not self.cycle.response_complete
        return waits and self.conn.their_state is h11.DONE and self.conn.their_http_version == b"1.1"

    def _probe(self, wait: float) -> None:
        if self.transport.is_closing() or not self._answering() or self.cycle.response_started:
            return
        self.transport.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        self.loop.call_later(wait, self._probe, min(10 * wait, LONGEST_PROBE_S))

"""Run the server on a socket, with uvicorn."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Sequence

import uvicorn

from .app import LOOPBACK, application
from .models import Server
from .protocol import Protocol

DRAIN_S = 60  # that answers have to become complete after SIGTERM
# That a connection may wait for its next request: longer than clients keep one, since a request that comes
# while the server closes is lost. httpx keeps it 5 s, as uvicorn does by itself, aiohttp 15 s.
KEEP_ALIVE_S = 75


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address. Port 0 means any free port.

    Raises OSError if the address can't be used, for example because another program uses it.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends small parts at once (TCP_NODELAY) only where the protocol is named; else 40 ms go by.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
    except BaseException as error:
        listening.close()
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise OSError(f"{host}:{port} is already in use: choose another --port") from None
        raise
    return listening


def address(listening: socket.socket) -> str:
    """Return the URL at which a listening socket can be reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HttpServer(uvicorn.Server):
    """uvicorn's server, which calls `ready` as soon as it accepts requests and a signal can shut it down
    cleanly.
    """

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def http_server(
    server: Server,
    host: str,
    keys: Sequence[str] = (),
    ready: Callable[[], None] = lambda: None,
    log: Callable[[str], None] | None = None,
    names: Sequence[str] = (),
    origins: Sequence[str] = (),
) -> HttpServer:
    """Return a server that will accept requests at the address `host`.

    `names` are further host names that requests may use. Web pages of `origins` may call the server. After
    SIGTERM or Ctrl-C, the server accepts no more requests. Running requests have DRAIN_S seconds to end.
    Then the server stops.
    """
    # Who has the key isn't a page of a browser, so elsewhere any name of the machine will do.
    hosts = [*LOOPBACK, host, *names] if is_loopback(host) else ["*"]
    config = uvicorn.Config(
        application(server, keys, hosts, log, origins),
        http=Protocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )
    return HttpServer(config, ready)

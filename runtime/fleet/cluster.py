"""Connect to a Ray cluster, or start one on this machine for as long as it is needed."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...refimpl.errors import DeviceError
from ..silence import silent_stderr

LOCAL = "local"
# Ray reports nothing to its makers, and its C++ code writes to stderr what ends it, not what it deals with.
SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}


def settle() -> None:
    """Set the environment variables that Ray reads when Python imports it and when it starts."""
    os.environ |= SETTINGS


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a Ray cluster during a `with` block.

    - "local" starts a cluster on this machine, and stops it at the end of the block.
    - "auto" joins the cluster that `ray start` started on this machine.
    - HOST:PORT joins the cluster at this address.

    Raises DeviceError if there is no such cluster.
    """
    settle()
    import ray

    started: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with silent_stderr():  # it says there what it does
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **started)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise DeviceError(
            f"can't connect to a Ray cluster at {address!r:.80}: {str(error).splitlines()[0]:.200}"
        ) from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own in this place
    try:
        yield
    finally:
        ray.shutdown()

"""What one request may take of a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bytes of a body, seconds until it must have come, and seconds until an answer must be complete."""

    body: int = 2**23
    read_s: float = 30.0
    request_s: float = 600.0


LIMITS = Limits()

"""What one request may take of a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bytes of a body, and of one with a sound; seconds until it must have come, and until an answer must be
    complete."""

    body: int = 2**23
    sound: int = 25 * 2**20
    read_s: float = 30.0
    request_s: float = 600.0


LIMITS = Limits()

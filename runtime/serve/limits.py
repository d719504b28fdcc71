"""The limits of one request to a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The largest number of bytes of a body, and of a body with a sound; the seconds within which the body
    must have arrived, and within which an answer must be complete.
    """

    body: int = 2**23
    sound: int = 25 * 2**20
    read_s: float = 30.0
    request_s: float = 600.0


LIMITS = Limits()

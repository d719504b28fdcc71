"""Define the limits of one request to a server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The limits of one request.

    - `body`: the largest number of bytes of a body.
    - `sound`: the largest number of bytes of a body with a sound.
    - `read_s`: the seconds within which the body must have arrived.
    - `request_s`: the seconds within which the answer must be complete.
    """

    body: int = 2**23
    sound: int = 25 * 2**20
    read_s: float = 30.0
    request_s: float = 600.0


LIMITS = Limits()

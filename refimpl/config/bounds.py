"""The largest sizes that a Config may have, and the checks that raise ConfigError for larger ones."""

from __future__ import annotations

from dataclasses import fields

from ..errors import ConfigError
from .record import Record

# The largest sizes: enough for any model that this code could run.
LIMITS = {
    "vocabulary": 2**20,
    "width": 2**20,
    "context": 2**24,
    "samples": 2**16,  # of a sound that a vector is made of
    "layers": 1024,
    "heads": 4096,
    "experts": 2**16,  # of all layers together
    "streams": 64,  # vectors of a token
    "ngrams": 2**31,  # rows of a table of n-grams
    "kernel": 256,  # tokens that a short convolution sees
    "clusters": 32,  # of an adaptive softmax
}


def need(true: bool, message: str) -> None:
    """Raise ConfigError with this message if the condition is false."""
    if not true:
        raise ConfigError(message)


def within(name: str, value: int, limit: int, least: int = 1) -> None:
    """Raise ConfigError unless the value is an integer from `least` to `limit`."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    need(is_integer and least <= value <= limit, f"{name} must be {least} to {limit}, got {value!r:.40}")


def check_bounds(at: str, record: Record) -> None:
    """Raise ConfigError if any `bounded` field of the record is out of its bounds. The message begins with
    `at`.
    """
    for one in fields(record):
        value = getattr(record, one.name)
        if "bound" in one.metadata and value is not None:
            limit, name, least = one.metadata["bound"]
            within(at + (name or one.name), value, LIMITS[limit], least)

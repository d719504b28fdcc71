"""Compute the SHA-256 of small data without OpenSSL.

`hashlib` loads OpenSSL, which takes 4 MB of memory. A run of a bundle needs OpenSSL for nothing else. CPython
also has its own implementation, which is five to ten times slower. So only large data is hashed with
OpenSSL.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Protocol

LARGE = 2**22
OWN = ("_sha2", "_sha256")  # CPython's modules, from 3.12 on and before


class Hash(Protocol):
    """The interface of the object that `hashlib.sha256` returns."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...

    def hexdigest(self) -> str: ...


def new(size: int) -> Hash:
    """Return a new hash object, to which `size` bytes will be added."""
    if size < LARGE:
        for name in OWN:
            with suppress(ImportError):
                return import_module(name).sha256()
    import hashlib

    return hashlib.sha256()


def sha256_of(data: bytes) -> Hash:
    """Return a hash object to which these bytes have been added."""
    digest = new(len(data))
    digest.update(data)
    return digest

"""SHA-256 of few bytes without OpenSSL.

`hashlib` loads OpenSSL, which takes 4 MB of memory that a run over a bundle needs for nothing else. CPython
has the hash in itself too. It takes five to ten times as long, so OpenSSL hashes what is large.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Protocol

LARGE = 2**22
OWN = ("_sha2", "_sha256")  # CPython's modules, from 3.12 on and before


class Hash(Protocol):
    """What `hashlib.sha256` returns."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...

    def hexdigest(self) -> str: ...


def new(size: int) -> Hash:
    """The hash of nothing yet, which will take `size` bytes."""
    if size < LARGE:
        for name in OWN:
            with suppress(ImportError):
                return import_module(name).sha256()
    import hashlib

    return hashlib.sha256()


def sha256_of(data: bytes) -> Hash:
    """The hash of some bytes."""
    digest = new(len(data))
    digest.update(data)
    return digest

"""Hashes of CPython's own and of OpenSSL are one: which of them computes depends on the size alone."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from tfm.refimpl.checkpoint.formats import sha256
from tfm.refimpl.checkpoint.formats.sha256 import LARGE, new, sha256_of


@pytest.mark.parametrize("size", [0, 1, 63, 64, 1000, LARGE - 1, LARGE])
def test_the_hash_is_that_of_hashlib(size: int, monkeypatch: pytest.MonkeyPatch):
    data = np.random.default_rng(size).bytes(size)
    parts = new(size)
    parts.update(memoryview(data)[: size // 3])
    parts.update(np.frombuffer(data, np.uint8)[size // 3 :].data)
    want = hashlib.sha256(data)
    assert (sha256_of(data).hexdigest(), parts.digest()) == (want.hexdigest(), want.digest())
    monkeypatch.setattr(sha256, "OWN", ("_no_such_module",))
    assert sha256_of(data).hexdigest() == want.hexdigest()


@pytest.mark.parametrize(("size", "loaded"), [("LARGE - 1", False), ("LARGE", True)])
def test_openssl_is_loaded_for_what_is_large_alone(size: str, loaded: bool):
    code = (
        "import sys; from tfm.refimpl.checkpoint.formats.sha256 import LARGE, new; "
        f"new({size}); print('_hashlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(loaded)

"""The process's stderr is there again after the last thread that silenced it."""

from __future__ import annotations

import os

from tfm.runtime.silence import silent_stderr


def test_threads_that_overlap_restore_stderr() -> None:
    """The first to come leaves first, as threads may."""
    before = os.fstat(2)
    first, second = silent_stderr(), silent_stderr()
    first.__enter__()
    second.__enter__()
    assert not os.path.samestat(os.fstat(2), before)
    first.__exit__(None, None, None)
    assert not os.path.samestat(os.fstat(2), before)
    second.__exit__(None, None, None)
    assert os.path.samestat(os.fstat(2), before)

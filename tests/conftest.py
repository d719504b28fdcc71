"""Profiles for all tests: derandomized and short by default, `HYPOTHESIS_PROFILE=deep` for long runs."""

import fcntl
import os
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile(
    "ci",
    derandomize=True,
    max_examples=50,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "deep", max_examples=1000, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The real checkpoint: the file that TFM_TEST_MODEL names, or fetched once into tfm's cache."""
    if named := os.environ.get("TFM_TEST_MODEL"):
        return Path(named)
    from tfm.runtime.sources import cache_dir, fetch

    cache_dir().mkdir(parents=True, exist_ok=True)
    with open(cache_dir() / "tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes, one download
        return fetch("smollm2-135m", lambda *_: None)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real sentence encoder: the directory that TFM_TEST_MINILM names, or fetched once."""
    if named := os.environ.get("TFM_TEST_MINILM"):
        return Path(named)
    from tfm.runtime.sources import cache_dir, fetch

    cache_dir().mkdir(parents=True, exist_ok=True)
    with open(cache_dir() / "tests.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return fetch("minilm-l6", lambda *_: None)

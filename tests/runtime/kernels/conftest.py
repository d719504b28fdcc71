"""The kernels of this processor, an empty cache for their library, compilers that do what a test wants."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.kernels import Kernels, available, load
from tfm.runtime.kernels import compilers, library, probe


@pytest.fixture(scope="session")
def instruction_sets(kernels_library: Path) -> list[Kernels]:
    """The kernels of each instruction set that this processor has, the fastest first."""
    return list(available(load(kernels_library)).values())


@pytest.fixture
def kernels_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a package without a library."""
    monkeypatch.delenv(library.SWITCH, raising=False)
    monkeypatch.setenv("TFM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(library, "PACKAGED", tmp_path / "built")
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def compiler(kernels_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes shell scripts that are the only compilers: $out is the library's path.

    Each run, but for those that ask for the version, is a line in the file `runs`.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("CXX", str(folder / "c++"))
    monkeypatch.setattr(compilers, "_zig", lambda platform: None)

    def write(does: str, version: str = "fake 1", name: str = "c++") -> Path:
        script = folder / name
        script.write_text(
            f'#!/bin/sh\necho >left_by_a_compiler\ncase "$*" in *--version) echo "{version}"; exit;; esac\n'
            f'echo "$*" >>{tmp_path}/runs\n'
            f'while [ "$1" != -o ]; do shift; done; out=$2\n{does}\n'
        )
        script.chmod(0o700)
        return script

    return write


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whatever lies where a library is wanted can be loaded; the paths that were tried."""
    tried = []

    def attempt(path: Path, wanted: str = "") -> probe.Result:
        tried.append(str(path))
        return probe.Result("runs", wanted or "avx2")

    monkeypatch.setattr(probe, "attempt", attempt)
    return tried

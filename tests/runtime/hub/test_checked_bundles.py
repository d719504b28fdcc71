"""A bundle is read again whenever anything about it changed, and whatever its record holds."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.refused import refused
from tfm.refimpl.errors import BundleError
from tfm.runtime.bundle.manifest import DATA, MANIFEST, File
from tfm.runtime.hub import checked_bundles
from tfm.runtime.hub.checked_bundles import checking

TICK_NS = checked_bundles.TICK_NS


class StandIn:
    """A bundle of two files that counts how often it was read."""

    def __init__(self, path: Path) -> None:
        path.mkdir()
        for name in (MANIFEST, DATA):
            (path / name).write_bytes(b"content")
        self.path, self.reads, self.error = path, 0, None
        self.manifest = SimpleNamespace(files={DATA: File(7, "0" * 64)})

    def checking(self):
        self.reads += 1

        def wait():
            if self.error is not None:
                raise self.error

        return wait


@pytest.fixture
def bundle(tmp_path, cache, monkeypatch) -> StandIn:
    monkeypatch.setattr(checked_bundles, "SMALLEST", 0)
    monkeypatch.setattr(checked_bundles, "TICK_NS", -(2**62))  # files of this moment count as old
    return StandIn(tmp_path / "bundle")


def record(cache: Path) -> Path:
    (path,) = (cache / "checked").iterdir()
    return path


def test_a_bundle_is_read_once(bundle, cache):
    for _ in range(3):
        checking(bundle)()
    assert bundle.reads == 1
    assert record(cache).stat().st_mode & 0o777 == 0o600


def rewritten(path: Path) -> None:
    """Other bytes in the same place, with the size and the mtime of before."""
    before = path.stat()
    path.write_bytes(b"CONTENT")
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def replaced(path: Path) -> None:
    path.with_name("new").write_bytes(b"content")
    os.replace(path.with_name("new"), path)


@pytest.mark.parametrize("name", [MANIFEST, DATA])
@pytest.mark.parametrize("change", [rewritten, replaced])
def test_a_changed_file_is_read_again(bundle, name, change):
    checking(bundle)()
    change(bundle.path / name)
    checking(bundle)()
    checking(bundle)()
    assert bundle.reads == 2


def test_another_statement_of_the_manifest_is_read_again(bundle):
    checking(bundle)()
    bundle.manifest.files[DATA] = File(7, "1" * 64)
    checking(bundle)()
    assert bundle.reads == 2


def test_what_failed_or_changed_meanwhile_is_not_recorded(bundle, cache):
    bundle.error = BundleError("damaged")
    for _ in range(2):
        with refused(BundleError, "damaged"):
            checking(bundle)()
    bundle.error, wait = None, checking(bundle)
    rewritten(bundle.path / DATA)
    wait()
    (bundle.path / DATA).unlink()
    checking(bundle)()
    assert bundle.reads == 4
    assert not (cache / "checked").exists()


@pytest.mark.parametrize("kind", ["empty", "wrong", "long", "endless", "folder", "pipe"])
def test_a_record_may_hold_anything(bundle, cache, kind):
    checking(bundle)()
    path = record(cache)
    good = path.read_bytes()
    path.unlink()
    match kind:
        case "endless":
            path.symlink_to("/dev/zero")
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case _:
            path.write_bytes({"empty": b"", "wrong": good[:-1] + b"!", "long": good * 10**5}[kind])
    checking(bundle)()
    assert bundle.reads == 2
    checking(bundle)()
    assert bundle.reads == (3 if kind == "folder" else 2)


def test_files_that_changed_within_a_clocks_tick_are_not_recorded(bundle, cache, monkeypatch):
    """A change so soon after could have the same time; a file system's clock may tick every two seconds."""
    monkeypatch.setattr(checked_bundles, "TICK_NS", TICK_NS)
    written = max((bundle.path / name).stat().st_ctime_ns for name in (MANIFEST, DATA))
    for seconds, reads in ((1, 1), (1.9, 2), (2.1, 3), (2.1, 3)):
        monkeypatch.setattr("time.time_ns", lambda now=written + int(seconds * 1e9): now)
        checking(bundle)()
        assert bundle.reads == reads


def test_young_and_small_bundles_and_a_cache_that_is_closed(bundle, cache, monkeypatch):
    for name, value in (("TICK_NS", 3600 * 10**9), ("SMALLEST", 8)):
        with monkeypatch.context() as patch:
            patch.setattr(checked_bundles, name, value)
            checking(bundle)()
    assert not cache.exists()
    cache.write_bytes(b"no folder")
    checking(bundle)()
    checking(bundle)()
    assert bundle.reads == 4

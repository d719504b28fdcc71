"""A directory is replaced whole or not at all: at any interruption the old one or the new one stands."""

import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from helpers.refused import pattern, refused
from tfm.refimpl.errors import BundleError, ExportError
from tfm.runtime.bundle import atomic_dir
from tfm.runtime.progress import silent


def fill(directory: Path, text: str) -> None:
    for name in ("a", "b"):
        (directory / name).write_text(text)


def replace(path: Path, text: str) -> None:
    with atomic_dir.replacing(path) as new:
        fill(new, text)


def content(path: Path) -> set[str]:
    return {(path / name).read_text() for name in ("a", "b")}


def beside(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir() if p != path)


def child(path: Path, patch: str) -> subprocess.CompletedProcess:
    """A process of its own that replaces `path` by "new" after running `patch`."""
    code = """
    import os, signal, sys, time
    from pathlib import Path
    from tfm.runtime.bundle import atomic_dir
    path = Path(sys.argv[1])
    real = os.rename
    PATCH
    with atomic_dir.replacing(path) as new:
        (new / "a").write_text("new"); (new / "b").write_text("new")
    """
    code = textwrap.dedent(code).replace("PATCH", textwrap.dedent(patch).strip())
    return subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)


def killed_at(rename: int) -> str:
    """Kill the process instead of its n-th rename."""
    return f"""
def rename(a, b, calls=[]):
    calls.append(a)
    if len(calls) == {rename}:
        os.kill(os.getpid(), signal.SIGKILL)
    real(a, b)
os.rename = rename
"""


def test_a_new_directory_appears(tmp_path):
    path = tmp_path / "deep" / "model"
    replace(path, "new")
    assert content(path) == {"new"}
    assert beside(path) == []


def test_an_old_directory_is_replaced(tmp_path):
    path = tmp_path / "model"
    replace(path, "old")
    replace(path, "new")
    assert content(path) == {"new"}
    assert beside(path) == []


def test_a_link_to_a_directory_keeps_pointing_there(tmp_path):
    path, link = tmp_path / "model", tmp_path / "link"
    replace(path, "old")
    link.symlink_to(path)
    replace(link, "new")
    assert link.is_symlink()
    assert content(path) == {"new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "model"
    replace(path, "old")

    def half():
        with atomic_dir.replacing(path) as new:
            (new / "a").write_text("half")
            raise error

    with pytest.raises(error):
        half()
    assert content(path) == {"old"}
    assert beside(path) == []


@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupt_at_a_rename_leaves_one_of_them(tmp_path, monkeypatch, number):
    path = tmp_path / "model"
    replace(path, "old")
    real, calls = os.rename, []

    def rename(a, b):
        calls.append(a)
        if len(calls) == number:
            raise KeyboardInterrupt
        real(a, b)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        replace(path, "new")
    assert content(path) == {"old" if number == 1 else "new"}
    assert beside(path) == []


@pytest.mark.parametrize(("rename", "there", "left"), [(1, True, "old"), (2, False, "new")])
def test_a_kill_is_undone_before_the_renames_and_finished_between_them(tmp_path, rename, there, left):
    path = tmp_path / "model"
    replace(path, "old")
    assert child(path, killed_at(rename)).returncode == -signal.SIGKILL
    assert path.exists() == there
    assert len(beside(path)) == 1 + rename
    atomic_dir.recover(path)
    assert content(path) == {left}
    assert beside(path) == []


def test_a_kill_while_the_old_one_is_removed_is_finished(tmp_path):
    path = tmp_path / "model"
    replace(path, "old")
    patch = "atomic_dir.shutil.rmtree = "
    patch += "lambda path: ((path / 'a').unlink(), os.kill(os.getpid(), signal.SIGKILL))"
    assert child(path, patch).returncode == -signal.SIGKILL
    atomic_dir.recover(path)
    assert content(path) == {"new"}
    assert beside(path) == []


def test_a_first_export_that_was_killed_leaves_nothing(tmp_path):
    path = tmp_path / "model"
    assert child(path, killed_at(1)).returncode == -signal.SIGKILL
    atomic_dir.recover(path)
    assert not path.exists()
    assert beside(path) == []


def test_an_old_one_without_a_new_one_comes_back(tmp_path):
    path = tmp_path / "model"
    old = tmp_path / ".model.tfm-old-1-0"
    old.mkdir()
    fill(old, "old")
    atomic_dir.recover(path)
    assert content(path) == {"old"}


def test_the_next_replacement_recovers_first(tmp_path):
    path = tmp_path / "model"
    replace(path, "old")
    child(path, killed_at(2))
    replace(path, "newer")
    assert content(path) == {"newer"}
    assert beside(path) == []


def test_a_living_process_is_left_alone_and_a_second_one_refused(tmp_path):
    path = tmp_path / "model"
    replace(path, "old")
    code = "(path.parent / 'ready').touch(); time.sleep(60)"
    script = f"""
import sys, time
from pathlib import Path
from tfm.runtime.bundle import atomic_dir
path = Path(sys.argv[1])
with atomic_dir.replacing(path) as new:
    (new / "a").write_text("half"); {code}
"""
    other = subprocess.Popen([sys.executable, "-c", script, str(path)])
    try:
        until = time.monotonic() + 30
        while not (tmp_path / "ready").exists() and time.monotonic() < until:
            time.sleep(0.02)
        during = beside(path)
        assert any("tfm-new" in name for name in during)
        atomic_dir.recover(path)
        assert beside(path) == during
        assert content(path) == {"old"}
        with refused(ExportError, "process", "writing"):
            replace(path, "new")
        assert beside(path) == during
    finally:
        other.kill()
        other.wait()
    atomic_dir.recover(path)
    assert beside(path) == ["ready"]
    assert content(path) == {"old"}


def test_a_reader_waits_for_a_living_writer_between_its_renames(tmp_path, monkeypatch):
    path = tmp_path / "model"
    replace(path, "old")
    seen = []

    def rename(a, b):
        real(a, b)
        if not path.exists():
            monkeypatch.setattr(atomic_dir, "PATIENCE_S", 0.05)
            started = time.monotonic()
            atomic_dir.recover(path)
            seen.append(time.monotonic() - started)

    real = os.rename
    monkeypatch.setattr(os, "rename", rename)
    replace(path, "new")
    assert content(path) == {"new"}
    assert len(seen) == 1
    assert seen[0] >= 0.05


def test_a_place_that_cannot_be_written_is_read_as_it_is(tmp_path, monkeypatch):
    path = tmp_path / "model"
    replace(path, "old")
    (tmp_path / ".model.tfm-new-1-0").mkdir()

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    atomic_dir.recover(path)
    assert content(path) == {"old"}
    path.rename(tmp_path / ".model.tfm-old-1-0")
    with refused(BundleError, "folder", "writable"):
        atomic_dir.recover(path)


def test_nothing_is_touched_where_nothing_was_left(tmp_path):
    atomic_dir.recover(tmp_path / "none" / "model")
    atomic_dir.recover(tmp_path / "model")
    (tmp_path / ".other.tfm-new-1-0").mkdir()
    atomic_dir.recover(tmp_path / "model")
    assert beside(tmp_path / "model") == [".other.tfm-new-1-0"]


def test_a_lock_that_its_owner_removed_is_taken_again(tmp_path, monkeypatch):
    path, lock = tmp_path / "model", tmp_path / ".model.tfm-lock"
    real, calls = atomic_dir._lock, []

    def slow(fd):
        calls.append(fd)
        if len(calls) == 1:
            lock.unlink()  # the owner before us leaves between our open and our lock
        real(fd)

    monkeypatch.setattr(atomic_dir, "_lock", slow)
    replace(path, "new")
    assert len(calls) == 2
    assert content(path) == {"new"}


@pytest.fixture
def writer(tmp_path):
    """Replaces a directory in a thread, from `entered` until `leave` is set."""
    entered, leave = threading.Event(), threading.Event()

    def write():
        with atomic_dir.replacing(tmp_path / "model") as new:
            fill(new, "new")
            entered.set()
            leave.wait()

    thread = threading.Thread(target=write)
    thread.start()
    entered.wait()
    yield leave
    leave.set()
    thread.join()


def test_a_second_process_waits_and_says_so(tmp_path, writer):
    path, told = tmp_path / "model", []

    def notify(stage, done, total):
        told.append(stage)
        writer.set()

    assert atomic_dir.wait_for(path, notify)
    assert content(path) == {"new"}
    [line] = told
    assert re.search(pattern("waiting", "another process", path), line)
    assert not atomic_dir.wait_for(path, notify)
    assert not atomic_dir.wait_for(tmp_path / "no" / "folder", notify)


def test_ctrl_c_ends_the_wait_and_nothing_else(tmp_path, writer, monkeypatch):
    path = tmp_path / "model"
    monkeypatch.setattr(atomic_dir.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        atomic_dir.wait_for(path, silent)
    with refused(ExportError, "process", "writing"), atomic_dir.replacing(path):
        pass

"""Which library a process uses: from the package or its own cache, whole, and tried before."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.kernels import available as available_sets
from helpers.kernels import load
from helpers.refused import pattern, refused
from tfm.refimpl.errors import DeviceError
from tfm.runtime import hardware
from tfm.runtime.hub import checked_bundles
from tfm.runtime.kernels import library, probe
from tfm.runtime.kernels.compilers import available
from tfm.runtime.kernels.library import INSTRUCTION_SETS, Library, Unavailable, find
from tfm.runtime.kernels.platforms import Platform

HERE = Platform.here()
NOT_BUILT = Unavailable("the kernels were not built for this machine", buildable=True)


def install(folder: Path, made: Path, **record: object) -> Path:
    """A library in a folder, with its record or what a test wants there."""
    folder.mkdir(parents=True, mode=0o700)
    path = folder / HERE.file
    shutil.copy(made, path)
    path.chmod(0o700)
    sha256 = hashlib.sha256(made.read_bytes()).hexdigest()
    without = () if folder == library.PACKAGED else library.useless(HERE)
    content = {"key": library.key(HERE, without), "compilers": ["c++"], "sha256": sha256, **record}
    (folder / "build.json").write_text(json.dumps(content))
    return path


@pytest.fixture
def cached(kernels_cache: Path) -> Path:
    """The folder of this machine's library in the cache, empty."""
    kernels_cache.mkdir(parents=True, mode=0o700)
    return library.cached_folder(library.key(HERE, library.useless(HERE)))


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A file that no process can load."""
    path = tmp_path / "stranger.so"
    path.write_bytes(b"code")
    return path


@pytest.fixture
def compiled(tmp_path: Path, kernels_library: Path) -> Callable[[str], Path]:
    """A library with another `tfm_instruction_set`, or with none."""

    def compile_source(source: str) -> Path:
        (tmp_path / "a.cpp").write_text(source)
        command = [*available(HERE)[0].command, "-shared", "-fPIC", "-o", "a.so", "a.cpp"]
        subprocess.run(command, cwd=tmp_path, check=True)
        return tmp_path / "a.so"

    return compile_source


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The libraries that were tried in a child process."""
    tried = []

    def attempt(path: Path, wanted: str = "", run=probe.attempt) -> probe.Result:
        tried.append(str(path))
        return run(path, wanted)

    monkeypatch.setattr(probe, "attempt", attempt)
    return tried


def test_the_real_library_says_what_it_uses(cached, kernels_library):
    path = install(cached, kernels_library)
    instruction_set = ctypes.CDLL(str(kernels_library)).tfm_instruction_set
    instruction_set.restype = ctypes.c_char_p
    if (name := instruction_set()) is None:
        reason = f"this processor, {hardware.processor()}, has none of the kernels' instruction sets"
        assert find() == Unavailable(reason)
    else:
        assert find() == Library(path, name.decode())


def test_the_real_library_needs_no_cpp_library(kernels_library):
    """ziglang has no headers of one unless it compiles it, and a wheel's library would need its system's."""
    for file in library.sources():
        included = re.findall("#include <(.*)>", file.read_text())
        assert all(name.endswith(".h") for name in included), file.name
    assert re.findall(rb"_Z[nd][wal]\w*|__cxa_(?!finalize)\w+|GLIBCXX\w+", kernels_library.read_bytes()) == []


def test_a_library_is_tried_once_on_a_processor(cached, stranger, loads, monkeypatch):
    path = install(cached, stranger)
    told = []
    for name in ("one", "one", "two", "one"):
        monkeypatch.setattr(hardware, "processor", lambda name=name: name)
        assert find(lambda stage, *_: told.append(stage)) == Library(path, "avx2")
    assert told == []
    assert loads == [str(path)] * 2
    shutil.rmtree(cached)
    stranger.write_bytes(b"others")
    install(cached, stranger)
    assert find() == Library(path, "avx2")
    assert len(loads) == 3


def test_the_wheels_library_comes_before_the_caches(cached, stranger, loads):
    install(cached, stranger)
    path = install(library.PACKAGED, stranger)
    assert find() == Library(path, "avx2")


def test_a_cache_that_cannot_be_written_needs_a_try_each_time(stranger, kernels_cache, loads, monkeypatch):
    path = install(library.PACKAGED, stranger)
    monkeypatch.setenv("TFM_CACHE", "/proc/nowhere")
    assert [find(), find()] == [Library(path, "avx2")] * 2
    assert len(loads) == 2


def test_nothing_is_built_or_taken_from_elsewhere(compiler, cached, stranger, tmp_path, monkeypatch):
    """A library in the current directory, in the cache's root or beside its folder isn't looked at."""
    compiler("exit 1")
    here = install(tmp_path / "here", stranger)
    monkeypatch.chdir(here.parent)
    for folder in (cached.parent, cached.parents[1], cached.with_name("other")):
        shutil.copytree(here.parent, folder, dirs_exist_ok=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(here.parent))
    assert find() == NOT_BUILT
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "record",
    [
        {"sha256": "0" * 64},
        {"sha256": ""},
        {"sha256": 1},
        {"key": "0" * 64},
        {"compilers": None},
        {"failure": ["x"]},
        {"more": 1},
    ],
)
def test_a_library_with_another_record_is_not_loaded(cached, tries, stranger, record):
    install(cached, stranger, **record)
    install(library.PACKAGED, stranger, **record)
    assert find() == NOT_BUILT
    assert tries == []


@pytest.mark.parametrize("damage", ["bytes", "missing", "no record", "rubbish record", "directory"])
def test_a_damaged_folder_holds_no_library(cached, tries, stranger, damage):
    path = install(cached, stranger)
    record = path.with_name("build.json")
    match damage:
        case "bytes":
            path.write_bytes(b"Code")
        case "missing":
            path.unlink()
        case "no record":
            record.unlink()
        case "rubbish record":
            record.write_text("[1")
        case "directory":
            path.unlink()
            path.mkdir(0o700)
    assert find() == NOT_BUILT
    assert tries == []


@pytest.mark.parametrize("what", ["library", "folder", "parent", "link", "owner"])
def test_what_others_could_have_written_is_not_loaded(cached, tries, stranger, monkeypatch, what):
    path = install(cached, stranger)
    match what:
        case "library":
            path.chmod(0o770)
        case "folder":
            path = cached
            path.chmod(0o707)
        case "parent":
            path = cached.parent
            path.chmod(0o777)
        case "link":
            path.unlink()
            path.symlink_to(stranger)
        case "owner":
            path = cached.parent
            lstat = Path.lstat
            other = (os.geteuid() or 1000) + 1
            monkeypatch.setattr(Path, "lstat", lambda self: _owned(lstat(self), other))
    reason = f"{path} must belong to this user, and other users must not be able to write it"
    assert find() == Unavailable(reason)
    assert tries == []


def _owned(status: os.stat_result, owner: int) -> os.stat_result:
    fields = list(status)
    fields[4] = owner
    return os.stat_result(fields)


def test_a_crash_switches_them_off_and_is_told_once(cached, compiled, tries):
    install(
        cached,
        compiled(
            'extern "C" void tfm_kernels() {} extern "C" int raise(int); '
            'extern "C" int tfm_instruction_set() { return raise(4); }'  # SIGILL on every processor
        ),
    )
    told = []
    found = [find(lambda stage, *_: told.append(stage)) for _ in range(2)]
    assert isinstance(found[0], Unavailable)
    assert found[0] == found[1]
    assert re.search(pattern(hardware.processor(), "crashed", "SIGILL"), found[0].reason)
    assert not found[0].buildable
    [line] = told
    assert re.search(pattern("kernels", found[0].reason), line)
    assert len(tries) == 1


@pytest.mark.parametrize(
    ("source", "reason", "tried"),
    [
        ("int nothing;", "the library of kernels can't be loaded: .*tfm_instruction_set", 2),
        (
            'extern "C" { void tfm_kernels() {} const char *tfm_instruction_set() { return nullptr; } }',
            "this processor, .*, has none of the kernels' instruction sets$",
            1,
        ),
        (
            '#include <cstddef>\nextern "C" { const char *tfm_instruction_set() { return "x"; }\n'
            "size_t scratch(void *, size_t) { return 0; } void linear() {}\n"
            "struct { const char *name; void (*linear)(); size_t (*scratch)(void *, size_t); } set\n"
            '= {"x", linear, scratch}; void *tfm_kernels(const char *) { return &set; } }',
            "the kernels compute a wrong product on ",
            1,
        ),
    ],
)
def test_a_library_that_is_of_no_use_here_says_why(cached, compiled, tries, source, reason, tried):
    install(cached, compiled(source))
    found = [find() for _ in range(2)]
    assert isinstance(found[0], Unavailable)
    assert found[0] == found[1]
    assert len(tries) == tried
    assert re.match(reason, found[0].reason)


def test_a_process_that_others_ended_is_tried_again(cached, stranger, tries, monkeypatch, tmp_path):
    install(cached, stranger)
    program = tmp_path / "program.py"
    program.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setattr(probe, "PROGRAM", program)
    for found in (find(), find()):
        assert isinstance(found, Unavailable)
        assert re.search("process .* ended", found.reason)
        assert not found.buildable
    assert len(tries) == 2
    assert list(cached.parent.iterdir()) == [cached]


def test_the_switch(cached, stranger, monkeypatch, loads):
    path = install(cached, stranger)
    monkeypatch.setenv("TFM_KERNELS", "0")
    assert find() == Unavailable("TFM_KERNELS=0 switches the kernels off")
    assert loads == []
    monkeypatch.setenv("TFM_KERNELS", "1")
    assert find() == Library(path, "avx2")


def test_an_instruction_set_by_name(cached, kernels_library, monkeypatch):
    """Each that this processor has is used and tried; of others the error says what is missing."""
    path = install(cached, kernels_library)
    here = available_sets(load(kernels_library))
    assert here
    for name in INSTRUCTION_SETS:
        monkeypatch.setenv("TFM_KERNELS", name)
        lacks = Unavailable(f"this processor, {hardware.processor()}, lacks {name}")
        assert find() == find() == (Library(path, name) if name in here else lacks)
    monkeypatch.delenv("TFM_KERNELS")
    assert find() == Library(path, next(iter(here)))
    for name in ("avx", "AVX2", "on"):
        monkeypatch.setenv("TFM_KERNELS", name)
        with refused(DeviceError, "TFM_KERNELS", f"'{name}'"):
            find()


def test_other_machines_have_none(cached, monkeypatch):
    monkeypatch.setattr(Platform, "here", staticmethod(lambda: Platform("Linux", "riscv64")))
    assert find() == Unavailable("the kernels aren't written for Linux riscv64")


def test_a_library_is_hashed_again_once_it_changes(cached, stranger, loads, monkeypatch):
    hashed = []

    def sha256_of(data: bytes, run=library.sha256_of):
        hashed.extend([data] if data.startswith(b"co") else [])
        return run(data)

    monkeypatch.setattr(library, "sha256_of", sha256_of)
    monkeypatch.setattr(checked_bundles, "TICK_NS", -(2**62))  # files of this moment count as old
    path = install(cached, stranger)
    assert [find() for _ in range(3)] == [Library(path, "avx2")] * 3
    assert hashed == [b"code"]
    path.write_bytes(b"cone")
    assert [find(), find()] == [NOT_BUILT] * 2
    path.write_bytes(b"code")
    assert [find(), find()] == [Library(path, "avx2")] * 2
    assert hashed == [b"code", b"cone", b"cone", b"code"]
    record = json.loads((path.parent / "build.json").read_text())
    (path.parent / "build.json").write_text(json.dumps({**record, "sha256": "0" * 64}))
    assert find() == NOT_BUILT

"""How the library of kernels is made: by which compiler, once, whole or not at all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers.refused import pattern, refused
from tfm.refimpl.errors import ExportError
from tfm.runtime import hardware
from tfm.runtime.kernels import compilers, library
from tfm.runtime.kernels.build import build, building
from tfm.runtime.kernels.compilers import available
from tfm.runtime.kernels.platforms import ZIG_TARGETS, Platform

HERE = Platform.here()
OTHER = next(one for one in (Platform(*names) for names in ZIG_TARGETS) if one.system != HERE.system)
WRITES = "echo code >$out"
NOT_BUILT = library.Unavailable("the kernels were not built for this machine", buildable=True)
BUILD = "from tfm.runtime.kernels import compilers\ncompilers._zig = lambda platform: None\n"
BUILD += "from tfm.runtime.kernels.build import build\n"
BUILD += "print(build(progress=lambda stage, *_: print(stage, flush=True)))"
# tfm-cli, which leaves a file once it waits for a compiler.
INTERRUPTED = """
import pathlib, subprocess, sys
from tfm.cli.main import main

class Child(subprocess.Popen):
    def wait(self, timeout=None):
        if "-o" in self.args:
            pathlib.Path(sys.argv[1]).touch()
        return super().wait(timeout)

subprocess.Popen = Child
sys.exit(main(["doctor", "--build-kernels"]))
"""


def runs(tmp_path: Path) -> int:
    """How often a compiler has compiled."""
    file = tmp_path / "runs"
    return len(file.read_text().splitlines()) if file.exists() else 0


def wait_until(condition, what: str) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.01)


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits for nothing but its parent's notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.usefixtures("loads")
@pytest.mark.parametrize(
    ("flags", "left_out"),
    [
        ("avx2 avx512_vnni avx_vnni", []),
        ("avx2 avx_vnni", ["avx512"]),
        ("avx2", ["avx512", "avx_vnni"]),
        ("", []),  # nobody knows
    ],
)
def test_one_run_compiles_all_sources_that_the_processor_can_use(
    compiler, tmp_path, monkeypatch, flags, left_out
):
    monkeypatch.setattr(hardware, "flags", lambda: frozenset(flags.split()))
    compiler('[ "$TMPDIR" = "${out%/*}" ] && ' + WRITES)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = build()
    assert path == library.cached_folder(library.key(HERE, library.useless(HERE))) / HERE.file
    assert path.read_text() == "code\n"
    assert build() == path
    assert list((tmp_path / "here").iterdir()) == []
    [command] = (tmp_path / "runs").read_text().splitlines()
    without = [f"-DTFM_WITHOUT_{name.upper()}" for name in left_out]
    sources = [str(file) for file in sorted(library.SOURCES.glob("*.cpp")) if file.stem not in left_out]
    assert command.split() == [*compilers.FLAGS, *without, "-o", command.split()[-len(sources) - 1], *sources]


@pytest.mark.usefixtures("loads")
def test_nobody_else_may_write_what_was_built(compiler):
    compiler(WRITES + "; chmod 777 $out")
    before = os.umask(0)
    try:
        path = build()
    finally:
        os.umask(before)
    made = [path, path.parent, path.with_name("build.json"), path.parents[1]]
    assert {file.stat().st_mode & 0o777 for file in made} == {0o700}
    assert library.find() == library.Library(path, "avx2")


@pytest.mark.usefixtures("loads")
def test_a_changed_source_is_compiled_and_the_old_library_no_longer_used(compiler, tmp_path, monkeypatch):
    compiler(WRITES)
    sources = tmp_path / "source"
    sources.mkdir()
    (sources / "a.cpp").write_text("1")
    monkeypatch.setattr(library, "SOURCES", sources)
    places = [build()]
    assert library.find() == library.Library(places[0], "avx2")
    for name, text in (("a.cpp", "2"), ("a.h", "2"), ("b.cpp", "")):
        (sources / name).write_text(text)
        assert library.find() == NOT_BUILT
        places.append(build())
    assert len(set(places)) == runs(tmp_path) == 4


def test_the_key_has_flags_and_platform(monkeypatch):
    keys = {library.key(Platform(*names)) for names in ZIG_TARGETS}
    monkeypatch.setattr(library, "FLAGS", ("-O2",))
    assert len(keys | {library.key(HERE)}) == len(ZIG_TARGETS) + 1


@pytest.mark.usefixtures("loads")
def test_another_compiler_compiles_anew_and_none_takes_what_is_there(compiler, tmp_path, monkeypatch):
    compiler(WRITES)
    path = build()
    script = compiler(WRITES, version="fake 2")
    assert (build(), runs(tmp_path)) == (path, 2)
    monkeypatch.setenv("CXX", str(compiler(WRITES, version="other", name="other")))
    assert (build(), runs(tmp_path)) == (path, 2)
    script.unlink()
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CXX", "")
    assert (build(), runs(tmp_path)) == (path, 2)


@pytest.mark.usefixtures("loads")
@pytest.mark.parametrize(
    ("does", "reason"),
    [
        ("echo in function >&2; echo 'a.cpp:1: error: none' >&2; exit 1", "a.cpp:1: error: none"),
        ("echo bad >&2; exit 3", "bad"),
        ("exit 3", "the compiler failed with exit code 3"),
        ("kill -9 $$", "the compiler was ended by SIGKILL"),
        ("exit 0", "the compiler wrote no library"),
    ],
)
def test_a_failure_is_remembered_until_something_changes(compiler, tmp_path, does: str, reason: str):
    compiler(does)
    for told in (
        f"kernels can't be built: fake 1: {reason}",
        "an earlier build of the kernels failed: `tfm-cli doctor` shows the reason",
    ):
        with pytest.raises(ExportError) as failure:
            build()
        assert str(failure.value) == told
    assert runs(tmp_path) == 1
    assert library.find() == library.Unavailable(f"building the kernels failed: fake 1: {reason}", True)
    with pytest.raises(ExportError):
        build(retry=True)
    assert runs(tmp_path) == 2
    folder = library.cached_folder(library.key(HERE, library.useless(HERE)))
    assert [file.name for file in folder.iterdir()] == ["build.json"]
    compiler(WRITES, version="fake 2")
    assert build().read_text() == "code\n"


def test_what_a_process_cannot_load_is_no_library(compiler):
    compiler(WRITES)
    with refused(ExportError, "fake", "1", "library", "loaded"):
        build()
    assert not (library.cached_folder(library.key(HERE, library.useless(HERE))) / HERE.file).exists()


def test_a_compiler_that_takes_too_long_is_ended(compiler):
    compiler("sleep 600")
    with refused(ExportError, "fake", "1", "long"):
        build(limit_s=0.2)


def test_a_compiler_ends_with_the_work_beside_it_and_no_failure_is_remembered(compiler, tmp_path):
    compiler(f"sleep 600 & echo $! >{tmp_path}/pid; wait")
    with building() as wait:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "it compiles")
    sleeping = int((tmp_path / "pid").read_text())
    wait_until(lambda: has_ended(sleeping), "the compiler's child ends")
    with refused(ExportError, "ended before"):
        wait()
    assert list((tmp_path / "cache" / "kernels").iterdir()) == []


@pytest.mark.usefixtures("loads")
def test_a_library_is_built_beside_other_work(compiler):
    compiler(WRITES)
    stages = []
    with building(lambda stage, *_: stages.append(stage)) as wait:
        path = wait()
    assert path.read_text() == "code\n"
    assert stages in ([], ["compiling kernels"])


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_compiler_with_its_children_and_leaves_nothing(compiler, tmp_path, sent):
    compiler(f"touch $TMPDIR/half; echo half >$out; sleep 600 & echo $! >{tmp_path}/pid; wait")
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "waits")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), "it compiles")
        wait_until((tmp_path / "waits").exists, "tfm-cli waits for the compiler")
        child.send_signal(sent)
    assert child.returncode == 128 + sent
    sleeping = int((tmp_path / "pid").read_text())
    wait_until(lambda: has_ended(sleeping), "the compiler's child ends")
    assert list((tmp_path / "cache" / "kernels").iterdir()) == []


def test_two_processes_compile_once(compiler, tmp_path, kernels_library):
    compiler(f"while ! [ -e {tmp_path}/go ]; do sleep 0.01; done; cat {kernels_library} >$out")

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", BUILD], stdout=subprocess.PIPE, text=True)

    first = start()
    wait_until(lambda: runs(tmp_path), "the first compiles")
    second = start()
    assert second.stdout is not None
    assert re.search(pattern("waiting", "another process"), second.stdout.readline())
    (tmp_path / "go").touch()
    paths = [child.communicate()[0].splitlines()[-1] for child in (first, second)]
    assert paths == [str(library.cached_folder(library.key(HERE, library.useless(HERE))) / HERE.file)] * 2
    assert runs(tmp_path) == 1


@pytest.mark.usefixtures("loads")
def test_the_next_compiler_is_tried(compiler, monkeypatch, tmp_path):
    compiler(WRITES)
    other = compiler("exit 1", version="other", name="other")
    monkeypatch.setenv("CXX", f"{other} -v")
    assert [(one.command, one.version) for one in available(HERE)] == [
        ((str(other), "-v"), "other"),
        ((str(tmp_path / "bin" / "c++"),), "fake 1"),
    ]
    assert build().read_text() == "code\n"
    assert runs(tmp_path) == 2


def test_without_a_compiler_the_message_names_the_extra(compiler, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with refused(ExportError, "C++", "'tfm-cli[kernels]'"):
        build()
    assert library.find() == NOT_BUILT


def test_for_another_platform_ziglang_alone_compiles(monkeypatch):
    monkeypatch.setattr(compilers.importlib.util, "find_spec", lambda name: None)
    assert available(OTHER) == []
    monkeypatch.setattr(compilers.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(compilers, "_version", lambda command: "zig")
    [zig] = available(OTHER)
    assert zig.command[-6:] == ("ziglang", "cc", "-x", "c++", "-target", OTHER.zig)
    with refused(ExportError, "Linux", "riscv64"):
        build(platform=Platform("Linux", "riscv64"))


def test_what_was_built_for_another_platform_is_not_tried(compiler, monkeypatch, tmp_path):
    script = compiler(WRITES)
    monkeypatch.setattr(compilers, "_zig", lambda platform: (str(script),))
    assert build(tmp_path / "out", platform=OTHER) == tmp_path / "out" / OTHER.file


@pytest.mark.parametrize("line", ["'", "nowhere/c++", "./c++", ""])
def test_a_compiler_is_a_program_on_the_path(compiler, monkeypatch, tmp_path, line: str):
    compiler(WRITES)
    monkeypatch.setenv("PATH", f".{os.pathsep}")
    monkeypatch.chdir(tmp_path / "bin")
    monkeypatch.setenv("CXX", line)
    assert compilers._on_path(line) is compilers._on_path("c++") is None
    assert available(HERE) == []


def test_a_compiler_that_cannot_name_its_version_is_none(compiler, monkeypatch, tmp_path):
    (tmp_path / "bin" / "c++").write_bytes(b"\x7fELF rubbish")
    (tmp_path / "bin" / "c++").chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert available(HERE) == []


def test_a_cache_that_cannot_be_written_is_an_error(compiler, monkeypatch):
    compiler(WRITES)
    monkeypatch.setenv("TFM_CACHE", "/proc/nowhere")
    with refused(ExportError, "/proc/nowhere", "writable"):
        build()


@pytest.mark.usefixtures("loads")
def test_a_folder_stands_for_package_and_cache(compiler, tmp_path, kernels_cache):
    compiler(WRITES)
    path = build(tmp_path / "out")
    assert path == tmp_path / "out" / HERE.file
    assert not kernels_cache.exists()
    (tmp_path / "out").rename(library.PACKAGED)
    assert build() == library.PACKAGED / HERE.file
    assert runs(tmp_path) == 1

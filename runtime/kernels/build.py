"""Compile the library of kernels on this machine, if neither the wheel nor the cache contains it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

from ...refimpl.errors import ExportError
from ..bundle.atomic_dir import BusyError, replacing, wait_for
from ..hub.cache_dir import require_writable
from ..progress import Progress, silent
from . import library, probe
from .compilers import FLAGS, Compiler, available
from .library import RECORD, Record
from .platforms import Platform

LIMIT_S = 120.0  # for all compilers together, while a person waits and an export takes its share of the cores
LOOK_S = 0.1  # between two looks at a compiler
NO_COMPILER = "no C++ compiler was found: install one, or pip install 'tfm-cli[kernels]'"


def build(
    out: Path | None = None,
    progress: Progress = silent,
    platform: Platform | None = None,
    retry: bool = False,
    limit_s: float = LIMIT_S,
    stop: threading.Event | None = None,
) -> Path:
    """Return the path of the library for a platform, by default this machine's. Compile the library if
    necessary.

    The function first looks for the library in this package, then in the user's cache. If neither contains
    the library, one of this machine's compilers compiles it into the cache. With `out`, the function uses
    this folder instead of both places. If another process is compiling the library, this one waits.

    Raises ExportError if no compiler succeeds within `limit_s` seconds in all, or before `stop` is set. A
    failure is remembered as long as sources and compilers stay the same; `retry` ignores it.
    """
    platform = platform or Platform.here()
    if not platform.known:
        raise ExportError(f"tfm's kernels don't support {platform}")
    wanted, without = library.key(platform), ()
    private = out is None
    if out is None:
        packaged = library.library_in(
            library.PACKAGED, library.read_record(library.PACKAGED, wanted), platform
        )
        if packaged is not None:
            return packaged
        without = library.useless(platform)
        wanted = library.key(platform, without)
        out = library.cached_folder(wanted)
        require_writable(out.parent)
    compilers, stop = available(platform), stop or threading.Event()
    while (path := _built(out, wanted, platform, compilers, retry)) is None:
        if not compilers:
            raise ExportError(f"kernels can't be built: {NO_COMPILER}")
        try:
            with replacing(out) as new:
                is_over = _over(limit_s, stop)
                record = _compiled(new, wanted, without, compilers, platform, is_over, progress)
                if stop.is_set():
                    raise ExportError(
                        "the kernels weren't built, because the program ended before the compiler"
                    )
                (new / RECORD).write_text(json.dumps(record.content()) + "\n", encoding="utf-8")
                for made in (new.parent, new, *new.iterdir()) if private else ():
                    made.chmod(0o700)
        except BusyError:
            wait_for(out, progress)
            retry = False
        except OSError as error:
            raise ExportError(f"kernels can't be built: {out}: {error.strerror}") from None
        else:
            if record.failure:
                raise ExportError(f"kernels can't be built: {record.failure}")
            return out / platform.file
    return path


@contextmanager
def building(progress: Progress = silent) -> Iterator[Callable[[], Path]]:
    """Build the library in a thread while a `with` block runs.

    The block gets a function that waits for the library and raises the errors of `build`. If the block
    ends without waiting, the compiler is stopped.
    """
    stop, result = threading.Event(), Future[Path]()

    def run() -> None:
        try:
            result.set_result(build(stop=stop))
        except BaseException as error:
            result.set_exception(error)

    def wait() -> Path:
        if not result.done():
            progress("compiling kernels", 0, 0)
        return result.result()

    thread = threading.Thread(target=run, name="tfm-kernels", daemon=True)
    thread.start()
    try:
        yield wait
    finally:
        stop.set()
        thread.join(10 * LOOK_S)


def _over(limit_s: float, stop: threading.Event) -> Callable[[], bool]:
    """Return a function that says whether `limit_s` seconds have passed since now, or `stop` is set."""
    until = time.monotonic() + limit_s
    return lambda: stop.is_set() or time.monotonic() > until


def _built(out: Path, wanted: str, platform: Platform, compilers: list[Compiler], retry: bool) -> Path | None:
    """Return the library in a folder if one of these compilers made it, or any compiler if the list is empty.
    Return None if there is no such library.

    Raises ExportError if all these compilers failed before, unless `retry` is set.
    """
    record, versions = library.read_record(out, wanted), [one.version for one in compilers]
    if record is None:
        return None
    if record.failure:
        if record.compilers == versions and not retry:
            raise ExportError("an earlier build of the kernels failed: `tfm-cli doctor` shows the reason")
        return None
    if versions and not set(record.compilers) <= set(versions):
        return None
    return library.library_in(out, record, platform)


def _compiled(
    new: Path,
    wanted: str,
    without: Sequence[str],
    compilers: list[Compiler],
    platform: Platform,
    is_over: Callable[[], bool],
    progress: Progress,
) -> Record:
    """Compile the library into a new folder with the first compiler that succeeds. Returns the record for
    build.json.
    """
    path, failures = new / platform.file, []
    for compiler in compilers:
        progress(f"compiling kernels for {platform} with {compiler.version}", 0, 0)
        failure = _compile(compiler, path, platform, without, is_over)
        if failure is None and platform == Platform.here():
            tried = probe.attempt(path)
            failure = tried.text if tried.kind == "fails" else None
        if failure is None:
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            return Record(wanted, [compiler.version], sha256)
        failures.append(f"{compiler.version}: {failure}")
    path.unlink(missing_ok=True)
    return Record(wanted, [one.version for one in compilers], failure="; ".join(failures))


def _compile(
    compiler: Compiler, path: Path, platform: Platform, without: Sequence[str], is_over: Callable[[], bool]
) -> str | None:
    """Compile the sources into one library. Returns the reason of a failure, or None."""
    # A compiler that is killed leaves its files, and a linker for Windows others beside the library.
    temporary = path.with_name("temporary")
    temporary.mkdir()
    named = ("TMPDIR", "TMP", "TEMP", "ZIG_LOCAL_CACHE_DIR", "ZIG_GLOBAL_CACHE_DIR")
    environment = {**os.environ, "LC_ALL": "C", **dict.fromkeys(named, str(temporary))}
    files = [str(file) for file in library.sources() if file.suffix == ".cpp" and file.stem not in without]
    left_out = [f"-DTFM_WITHOUT_{name.upper()}" for name in without]
    made, log = temporary / path.name, temporary / "log"
    command = [*compiler.command, *FLAGS, *platform.flags, *left_out, "-o", str(made), *files]
    try:
        if failure := _run(command, environment, log, is_over):
            return failure
        if not made.is_file():
            return "the compiler wrote no library"
        made.rename(path)
        return None
    finally:
        shutil.rmtree(temporary)


def _run(
    command: list[str], environment: dict[str, str], log: Path, is_over: Callable[[], bool]
) -> str | None:
    """Run a compiler. Returns the reason of a failure, or None. If this process stops waiting, the compiler
    and its children are killed.
    """
    with open(log, "wb") as output:
        child = subprocess.Popen(
            command,
            cwd=log.parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
        )
    try:
        code = None
        while code is None:
            if is_over():
                return "compiling took too long"
            with suppress(subprocess.TimeoutExpired):
                code = child.wait(LOOK_S)
    finally:
        if child.returncode is None:
            _kill(child)
    if code < 0:
        return f"the compiler was ended by {signal.Signals(-code).name}"
    return None if code == 0 else _first_error(log) or f"the compiler failed with exit code {code}"


def _kill(child: subprocess.Popen[bytes]) -> None:
    if os.name == "posix":
        os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
    child.wait()


def _first_error(log: Path) -> str:
    """Return the first line of a compiler's output that mentions an error, or otherwise its first line."""
    with open(log, "rb") as file:
        lines = file.read(2**16).decode(errors="replace").splitlines()
    line = next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")
    return " ".join(line.split())[:300]

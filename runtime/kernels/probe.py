"""Try a new library in a child process, so that an instruction that the processor lacks ends only the child.

The user's cache stores the result for each pair of library and processor, so that each pair is tried only
once.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from ...refimpl.checkpoint.formats.file_bytes import read_file
from ...refimpl.checkpoint.formats.sha256 import sha256_of
from ...refimpl.checkpoint.formats.strict_json import parse
from ...refimpl.errors import BundleError
from .. import hardware
from ..hub.cache_dir import cache_dir
from ..progress import Progress

PROGRAM = Path(__file__).with_name("probe_program.py")
ANSWER_S = 30.0  # until the child must have answered
Lasting = Literal["runs", "unfit", "crashes"]
# How others end a process, which says nothing of the library.
FROM_OUTSIDE = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL) if os.name == "posix" else ()


@dataclass(frozen=True)
class Result:
    """The result of trying a library.

    - "runs": `text` is the instruction set that the library uses.
    - "unfit": the processor lacks all instruction sets of the library, or the library computes wrong
      results.
    - "crashes": the library ended the child process.
    - "fails": the library couldn't be tried; another trial may succeed.

    Except for "runs", `text` is a line that says why the library can't be used.
    """

    kind: Lasting | Literal["fails"]
    text: str


def result(library: Path, sha256: str, wanted: str, progress: Progress) -> Result:
    """Return the result of trying the library with this hash on this processor.

    If the cache doesn't contain a result, the library is tried. `wanted` is the instruction set that must
    be used, or an empty text. If the child crashes, `progress` shows a line about the crash. If the cache
    can't be written, each call starts a child.
    """
    file = _file(sha256, wanted)
    if (kept := _read(file)) is not None:
        return kept
    tried = attempt(library, wanted)
    if tried.kind != "fails":
        with suppress(OSError):
            _write(file, tried)
    if tried.kind == "crashes":
        progress(f"tfm doesn't use its kernels: {tried.text}", 0, 0)
    return tried


def attempt(library: Path, wanted: str = "") -> Result:
    """Try the library in a child process, and return the result. `wanted` is the instruction set that must be
    used, or an empty text.
    """
    command = [sys.executable, "-I", "-S", str(PROGRAM), str(library), *filter(None, [wanted])]
    try:
        child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Result("fails", f"a test run of the kernels couldn't start or end: {error}")
    if -child.returncode in FROM_OUTSIDE:
        return Result("fails", "the process that tests the kernels was ended from outside")
    if child.returncode != 0:
        code = child.returncode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Result("crashes", f"a test run of the kernels on {hardware.processor()} crashed ({how})")
    answer = json.loads(child.stdout)
    if "failure" in answer:
        return Result("fails", f"the library of kernels can't be loaded: {answer['failure']}")
    if not answer["instruction_set"]:
        lacks = f"lacks {wanted}" if wanted else "has none of the kernels' instruction sets"
        return Result("unfit", f"this processor, {hardware.processor()}, {lacks}")
    if answer["product"] != "right":
        return Result("unfit", f"the kernels compute a wrong product on {hardware.processor()}")
    return Result("runs", answer["instruction_set"])


def _file(sha256: str, wanted: str) -> Path:
    """Return the path at which the cache stores the result."""
    about = [sha256, wanted, hardware.processor(), *sorted(hardware.flags())]
    digest = sha256_of("\0".join(about).encode()).hexdigest()
    return cache_dir() / "kernels" / f"probe-{digest[:24]}.json"


def _read(file: Path) -> Result | None:
    try:
        kept = Result(**parse(read_file(file, 2**12, BundleError), file.name, BundleError))
    except (BundleError, TypeError):
        return None
    return kept if kept.kind in get_args(Lasting) and isinstance(kept.text, str) else None


def _write(file: Path, tried: Result) -> None:
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}-{os.urandom(4).hex()}")
    try:
        temporary.write_text(json.dumps(asdict(tried)), encoding="utf-8")
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)

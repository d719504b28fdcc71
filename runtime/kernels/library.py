"""Find the library of kernels, and decide whether this process may use it.

The library is in one of two folders. No other folder is searched:

    built/ in this package    part of a wheel that was made for a platform
    CACHE/kernels/KEY/        compiled on this machine by `build`, without code that this processor can't run

Both folders contain:

    the library               with the name that the system gives libraries
    build.json                {key, compilers: [the compiler], sha256: of the library}, or after a failure
                              {key, compilers: [all that failed], failure: their messages}

The key is a hash of the sources, flags and platform, and of the names of sources that were left out. So a
library is never used after its sources change.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...refimpl.checkpoint.formats.file_bytes import read_file
from ...refimpl.checkpoint.formats.sha256 import sha256_of
from ...refimpl.checkpoint.formats.strict_json import parse
from ...refimpl.errors import BundleError, DeviceError
from .. import hardware
from ..hub.cache_dir import cache_dir
from ..hub.checked_bundles import is_recorded, state_of
from ..hub.checked_bundles import record as record_state
from ..progress import Progress, silent
from . import probe
from .compilers import FLAGS
from .platforms import Platform

SOURCES = Path(__file__).with_name("source")
PACKAGED = Path(__file__).with_name("built")
RECORD = "build.json"
LARGEST = 16 * 2**20  # bytes of a library
# 0 in this variable of the environment switches the kernels off, and an instruction set is used and no other.
SWITCH = "TFM_KERNELS"
# What a processor must have for a source to be of use, as Linux names it.
NEEDS = {"avx512": "avx512_vnni", "avx_vnni": "avx_vnni"}
INSTRUCTION_SETS = ("amx", "avx512-vnni", "avx-vnni", "avx2", "neon-dotprod", "neon")


@dataclass(frozen=True)
class Library:
    """A library that this processor can run, and the instruction set that the library uses here."""

    path: Path
    instruction_set: str


@dataclass(frozen=True)
class Unavailable:
    """The reason, in one line, why no library can be used. `buildable` says whether `build` would help."""

    reason: str
    buildable: bool = False


@dataclass(frozen=True)
class Record:
    """The content of build.json: the library's hash and its compiler, or the reason why all compilers
    failed.
    """

    key: str
    compilers: list[str]
    sha256: str = ""
    failure: str = ""

    def content(self) -> dict[str, object]:
        """Return the record as a JSON object, without its empty fields."""
        return {name: value for name, value in asdict(self).items() if value or name == "compilers"}


def sources() -> list[Path]:
    """Return the paths of the library's source files, including headers, in a fixed order."""
    return sorted(file for file in SOURCES.iterdir() if file.suffix in (".h", ".cpp"))


def useless(platform: Platform) -> tuple[str, ...]:
    """Return the names of sources that use instructions which this machine's processor lacks. For another
    platform, return none.

    Leaving these sources out saves most of a compiler's time.
    """
    have = hardware.flags() if platform == Platform.here() else ()
    return tuple(name for name, flag in NEEDS.items() if have and flag not in have)


def key(platform: Platform, without: Sequence[str] = ()) -> str:
    """Return the hash of everything that determines a platform's library, except the compiler.

    `without` are the sources that are left out. The library's record names the compiler.
    """
    digest = sha256_of("\0".join((str(platform), *FLAGS, *platform.flags, *without)).encode())
    for file in sources():
        content = file.read_bytes()
        digest.update(f"\0{file.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def cached_folder(of: str) -> Path:
    """Return the folder in the user's cache for the library with the key `of`."""
    return cache_dir() / "kernels" / of[:24]


def read_record(folder: Path, of: str) -> Record | None:
    """Return the content of a folder's build.json; None if the file has another key, is missing or is
    invalid.
    """
    try:
        content = parse(read_file(folder / RECORD, 2**16, BundleError), RECORD, BundleError)
        record = Record(**content)
    except (BundleError, TypeError):
        return None
    texts = (record.key, record.sha256, record.failure)
    if not all(isinstance(text, str) for text in texts) or not isinstance(record.compilers, list):
        return None
    return record if record.key == of else None


def library_in(folder: Path, record: Record | None, platform: Platform) -> Path | None:
    """Return the path of the library in a folder; None if the library doesn't have the hash that its record
    states.
    """
    if record is None or not record.sha256:
        return None
    path = folder / platform.file
    state = state_of([path], record.sha256)
    if is_recorded(path, state):
        return path
    try:
        content = read_file(path, LARGEST, BundleError)
    except BundleError:
        return None
    if sha256_of(content).hexdigest() != record.sha256:
        return None
    if state_of([path], record.sha256) == state:  # nothing changed meanwhile
        record_state(path, state)
    return path


def is_off() -> bool:
    """Return whether the user switched the kernels off."""
    return os.environ.get(SWITCH) == "0"


def forced() -> str:
    """Return the instruction set for which the user asks by the environment variable TFM_KERNELS. An empty
    text means the fastest.

    Raises DeviceError for an unknown name.
    """
    name = os.environ.get(SWITCH, "")
    if name in ("", "0", "1"):
        return ""
    if name not in INSTRUCTION_SETS:
        raise DeviceError(f"{SWITCH} must be 0, 1 or one of {', '.join(INSTRUCTION_SETS)}, got {name!r:.40}")
    return name


def find(progress: Progress = silent, instruction_set: str | None = None) -> Library | Unavailable:
    """Return the library for this process, or the reason why there is none. Nothing is compiled.

    The library uses `instruction_set`, or if that is None, the instruction set that `forced` returns.
    Before a library is used on a processor for the first time, it is tried in a child process. If the
    child crashes, `progress` shows a line about the crash. Raises DeviceError if the user asks for an
    unknown instruction set.
    """
    if is_off():
        return Unavailable(f"{SWITCH}=0 switches the kernels off")
    if instruction_set is None:
        instruction_set = forced()
    platform = Platform.here()
    if not platform.known:
        return Unavailable(f"the kernels aren't written for {platform}")
    record = read_record(PACKAGED, key(platform))
    path = library_in(PACKAGED, record, platform)
    if path is None:
        wanted = key(platform, useless(platform))
        folder = cached_folder(wanted)
        if folder.is_dir() and (stranger := _writable_by_others(folder)) is not None:
            return Unavailable(
                f"{stranger} must belong to this user, and other users must not be able to write it"
            )
        record = read_record(folder, wanted)
        if record is not None and record.failure:
            return Unavailable(f"building the kernels failed: {record.failure}", buildable=True)
        path = library_in(folder, record, platform)
    if path is None or record is None:
        return Unavailable("the kernels were not built for this machine", buildable=True)
    result = probe.result(path, record.sha256, instruction_set, progress)
    return Library(path, result.text) if result.kind == "runs" else Unavailable(result.text)


def _writable_by_others(folder: Path) -> Path | None:
    """Return the first of a folder, its parent and its files that another user could have written; None if
    there is none.

    A library runs as code, so the hash beside it isn't enough.
    """
    if os.name != "posix":
        return None
    for path in (folder.parent, folder, *folder.iterdir()):
        status = path.lstat()
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return path
    return None

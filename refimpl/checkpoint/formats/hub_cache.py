"""Read a directory with the layout of the Hugging Face hub client's cache.

A repository is called ORG/NAME, and COMMIT is the hash of one of its commits:

    models--ORG--NAME/refs/main             the commit of a branch, as text
    models--ORG--NAME/snapshots/COMMIT/…    the repository's files, as links into blobs
    models--ORG--NAME/blobs/…               the contents of these files
"""

from __future__ import annotations

import re
from pathlib import Path

from ...errors import CheckpointError
from .file_bytes import read_file
from .gguf_parts import models_of
from .model_directory import Directory

SNAPSHOTS, MAIN = "snapshots", "refs/main"


def model_in_cache(path: Path) -> Path:
    """Return the path of the model in a repository's folder of the hub client's cache. The result is the
    snapshot's directory, or its .gguf file.

    Any other path is returned unchanged. Raises CheckpointError if there are several snapshots and
    `refs/main` names none of them, if a snapshot contains several GGUF models, or for a link that leads out
    of the cache.
    """
    if (path / "config.json").exists() or not (path / SNAPSHOTS).is_dir():
        return path
    snapshot = _snapshot(path)
    models = [] if (snapshot / "config.json").exists() else list(models_of(_names(snapshot)))
    if len(models) > 1:
        raise CheckpointError(
            f"{path}: the folder contains several models; give the path of one model: "
            f"{', '.join(str(snapshot / name) for name in models)!s:.400}"
        )
    if not models:
        return snapshot
    for name in models_of(_names(snapshot))[models[0]]:
        Directory(snapshot).find(name)
    return snapshot / models[0]


def repository_of(snapshot: Path) -> str | None:
    """Return the name ORG/NAME of the repository that a snapshot's directory belongs to, or None for any
    other directory.
    """
    repository = snapshot.parent.parent.name
    if snapshot.parent.name != SNAPSHOTS or not repository.startswith("models--"):
        return None
    return repository.removeprefix("models--").replace("--", "/")


def _names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def _snapshot(path: Path) -> Path:
    folder, names = path / SNAPSHOTS, _names(path / SNAPSHOTS)
    if (path / MAIN).is_file():
        commit = read_file(path / MAIN, 1024).decode("utf-8", "replace").strip()
        if re.fullmatch(r"[0-9a-zA-Z]{1,64}", commit) and commit in names:
            return folder / commit
    if len(names) == 1:
        return folder / names[0]
    raise CheckpointError(
        f"{path}: {MAIN} must contain the name of one of the {len(names)} snapshots "
        f"({', '.join(names)!s:.200}): give the directory of a snapshot instead"
    )

"""The files of a model directory: bounded, and never outside of it, whatever a file there says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .errors import CheckpointError
from .storage import read_file
from .strict_json import parse

KILO = 1024
LIMITS = {
    "config.json": 1024 * KILO,
    "generation_config.json": 1024 * KILO,
    "chat_template.jinja": 256 * KILO,
    "tokenizer_config.json": 16 * 1024 * KILO,
    "model.safetensors.index.json": 64 * 1024 * KILO,
    "tokenizer.json": 64 * 1024 * KILO,
    "modules.json": 64 * KILO,
    "sentence_bert_config.json": 64 * KILO,
    "config_sentence_transformers.json": 256 * KILO,
}


def inside(directory: Path, name: str, folder: str = "") -> Path:
    """A file of a model directory, or of a folder in it; CheckpointError for a name or a link that leads out.

    A link may point within the directory, or into the `blobs` folder of the hub cache entry whose
    snapshot the directory is.
    """
    for part in (name, *([folder] if folder else [])):
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}", part):
            raise CheckpointError(
                f"{directory}: a file's name must be plain, without folders, got {part!r:.80}"
            )
    try:
        home, target = directory.resolve(), (directory / folder / name).resolve()
    except (OSError, RuntimeError) as error:  # a loop of links is either, by Python's version
        raise _unreadable(directory / folder / name, error) from None
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if target.parent not in (home / folder, home, blobs):
        raise CheckpointError(f"{directory / folder / name}: links out of the model's directory, to {target}")
    return target


def _unreadable(file: Path, error: OSError | RuntimeError) -> CheckpointError:
    return CheckpointError(f"{file}: can't be found: {getattr(error, 'strerror', None) or 'a loop of links'}")


def read_text(directory: Path, name: str, folder: str = "") -> str | None:
    """The text of a file, None if it isn't there; CheckpointError if it isn't UTF-8."""
    file = inside(directory, name, folder)
    try:
        if not file.exists():
            return None
    except OSError as error:  # a folder that may not be searched
        raise _unreadable(directory / folder / name, error) from None
    try:
        return read_file(file, LIMITS[name]).decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"{directory / folder / name}: must be UTF-8") from None


def read_value(directory: Path, name: str, folder: str = "") -> Any:
    """The JSON value of a file, None if it isn't there."""
    found = read_text(directory, name, folder)
    return None if found is None else parse(found, str(directory / folder / name))


def read_object(directory: Path, name: str, folder: str = "") -> dict[str, Any] | None:
    """The JSON object of a file, None if it isn't there; CheckpointError if it is another value."""
    found = read_value(directory, name, folder)
    if found is not None and not isinstance(found, dict):
        raise CheckpointError(f"{directory / folder / name}: must be a JSON object, got {found!r:.80}")
    return found

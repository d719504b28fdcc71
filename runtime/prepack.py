"""Weights as this processor's kernels want them, kept in the user's cache.

ONNX Runtime packs matrices when a session starts: seconds for a large model, and a private copy of
it. It can save the graph with the packed matrices, which later sessions map from the file: less to
do, and memory that the system may share or drop. What is packed depends on processor, ONNX Runtime
and bundle, so the file carries a key of all three, and another key means that it is written anew.

    CACHE/prepacked/NAME-HASH/    one for each place of a bundle
        model.onnx, model.onnx.data
        key.json                  {key, bundle: its place, sizes: of the two files}
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import onnxruntime as ort

from ..refimpl.errors import TfmError
from . import machine
from .session import open_session, options
from .sources import cache_dir
from .swap import replacing

GRAPH, DATA, KEY = "model.onnx", "model.onnx.data", "key.json"

# Below this a session starts at once, and a copy isn't worth its place.
SMALLEST = 16 * 2**20
# A saved copy holds the matrices as they were and as they are packed; and some room must be left.
SPACE = 4


def session(bundle: Path, threads: int | None) -> ort.InferenceSession:
    """A session on the CPU over packed weights, which are saved when they aren't yet.

    Nothing that goes wrong with the cache is an error: the bundle itself is there to be opened.
    """
    bundle = bundle.resolve()
    size = (bundle / DATA).stat().st_size
    if size >= SMALLEST:
        with suppress(OSError, TfmError):
            place, note = _place(bundle), _note(bundle)
            if _holds(place, note):
                made = options(threads)
                # Optimized it is already, for this very processor.
                made.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
                return open_session(place / GRAPH, "cpu", made)
            if shutil.disk_usage(_existing(place)).free > SPACE * size:
                return _saved(bundle, place, note, threads)
    return open_session(bundle / GRAPH, "cpu", options(threads))


def _saved(bundle: Path, place: Path, note: dict[str, Any], threads: int | None) -> ort.InferenceSession:
    """A session over the bundle that leaves its packed weights in the cache."""
    _drop_orphans(place.parent)
    with replacing(place) as new:
        made = options(threads)
        made.optimized_model_filepath = str(new / GRAPH)
        made.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
        made.add_session_config_entry("session.optimized_model_external_initializers_file_name", DATA)
        made.add_session_config_entry(
            "session.optimized_model_external_initializers_min_size_in_bytes", "1024"
        )
        opened = open_session(bundle / GRAPH, "cpu", made)
        sizes = {name: (new / name).stat().st_size for name in (GRAPH, DATA)}
        (new / KEY).write_text(json.dumps(note | {"sizes": sizes}), encoding="utf-8")
    return opened


def _place(bundle: Path) -> Path:
    digest = hashlib.sha256(str(bundle).encode()).hexdigest()
    return cache_dir() / "prepacked" / f"{bundle.name[:80]}-{digest[:12]}"


def _note(bundle: Path) -> dict[str, Any]:
    manifest = (bundle / "tfm.json").read_bytes()  # it holds the hashes of graph and weights
    about = [ort.__version__, platform.machine(), *sorted(machine.flags())]
    key = hashlib.sha256(manifest + "\0".join(about).encode()).hexdigest()
    return {"key": key, "bundle": str(bundle)}


def _holds(place: Path, note: dict[str, Any]) -> bool:
    try:
        found = json.loads((place / KEY).read_text(encoding="utf-8"))
        sizes = {name: (place / name).stat().st_size for name in (GRAPH, DATA)}
    except (OSError, ValueError):
        return False
    return found == note | {"sizes": sizes}


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _drop_orphans(folder: Path) -> None:
    """Remove what was packed for bundles that are gone."""
    for note in folder.glob(f"*/{KEY}"):
        with suppress(OSError, ValueError, TypeError, KeyError):
            if not Path(json.loads(note.read_text(encoding="utf-8"))["bundle"]).exists():
                shutil.rmtree(note.parent)

"""Weights as this processor's kernels want them, kept in the user's cache.

ONNX Runtime packs matrices when a session starts, into a private copy. It can save the graph with
the packed matrices, which later sessions map from the file: a third less time to start, and memory
that the system may share or drop. What is packed depends on processor, ONNX Runtime and bundle, so
the file carries a key of all three, and another key means that it is written anew.

    CACHE/prepacked/NAME-HASH/    one for each place of a graph
        model.onnx, model.onnx.data
        probe.npy                 what the graph gives for one token, by the session that packed
        key.json                  {key, bundle: its place, sizes: of the files, none if they are unsound}

ONNX Runtime 1.31 reads some shapes back wrongly, without a word (a vocabulary of 97, a width of
160: kernels align their parts by address, and the file doesn't keep it). So what is read is tried
on one token each time, and a copy that computes something else is dropped for good.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from .. import hardware
from ..bundle.atomic_dir import replacing
from ..bundle.graph_io import GRAPH
from ..bundle.manifest import DATA, MANIFEST
from ..hub.cache_dir import cache_dir
from .session import one_line, open_session, options

PROBE, KEY = "probe.npy", "key.json"
FILES = (GRAPH, DATA, PROBE)

TYPES = {"tensor(int64)": np.int64, "tensor(float)": np.float32, "tensor(float16)": np.float16}

# Below this a session starts at once, and a copy isn't worth its place.
SMALLEST = 16 * 2**20
# A saved copy holds the matrices as they were and as they are packed; and some room must be left.
SPACE = 4
# How far logits may differ, as a share of the largest: with other threads sums round differently
# and codes fall to the other side, but a copy that is unsound differs by all there is.
APART = 2**-6


def session(bundle: Path, threads: int | None, graph: str = GRAPH) -> ort.InferenceSession:
    """A session on the CPU over packed weights of one of a bundle's graphs, saved when they aren't yet.

    Nothing that goes wrong with the cache is an error: the bundle itself is there to be opened.
    """
    bundle = bundle.resolve()
    size = (bundle / DATA).stat().st_size
    if size >= SMALLEST:
        with suppress(Exception):  # a file that anything could have written can raise anything
            place, note = _place(bundle, graph), _note(bundle)
            found = _found(place, note)
            if found is None and shutil.disk_usage(_existing(place)).free > SPACE * size:
                return _saved(bundle / graph, place, note, threads)
            if found and (opened := _packed(place, note, threads)) is not None:
                return opened
    return open_session(bundle / graph, "cpu", options(threads))


def _found(place: Path, note: dict[str, Any]) -> bool | None:
    """True if packed weights for this key are there, False if they would be unsound, None if not yet."""
    try:
        found = json.loads((place / KEY).read_text(encoding="utf-8"))
        if found == note | {"sizes": {}}:
            return False
        return True if found == note | {"sizes": _sizes(place)} else None
    except (OSError, ValueError, RecursionError):
        return None


def _packed(place: Path, note: dict[str, Any], threads: int | None) -> ort.InferenceSession | None:
    """A session over the packed weights, if it computes what it should."""
    made = options(threads)
    # Optimized it is already, for this very processor.
    made.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    opened = open_session(place / GRAPH, "cpu", made)
    want, got = np.load(place / PROBE, allow_pickle=False), _probe(opened)
    if np.abs(got - want).max() <= APART * np.abs(want).max():
        return opened
    del opened
    with replacing(place) as new:
        (new / KEY).write_text(json.dumps(note | {"sizes": {}}), encoding="utf-8")
    return None


def _saved(graph: Path, place: Path, note: dict[str, Any], threads: int | None) -> ort.InferenceSession:
    """A session over the graph that leaves its packed weights in the cache."""
    _drop_orphans(place.parent)
    with replacing(place) as new:
        made = options(threads)
        made.optimized_model_filepath = str(new / GRAPH)
        for name, value in (
            ("save_external_prepacked_constant_initializers", "1"),
            ("optimized_model_external_initializers_file_name", DATA),
            ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ):
            made.add_session_config_entry(f"session.{name}", value)
        opened = open_session(graph, "cpu", made)
        np.save(new / PROBE, _probe(opened))
        (new / KEY).write_text(json.dumps(note | {"sizes": _sizes(new)}), encoding="utf-8")
    return opened


def _probe(opened: ort.InferenceSession) -> np.ndarray:
    """What the graph gives for one token at the first position, caches left out: every weight has a part
    in the logits, in what is said, or in the keys and values of an encoder's text."""
    sizes: dict[str, int] = dict.fromkeys(("batch", "time", "wanted", "capacity", "text"), 1)
    feeds = {}
    for value in opened.get_inputs():
        shape: list[Any] = [sizes.get(str(axis), axis) for axis in value.shape]
        feeds[value.name] = np.zeros(shape, TYPES[value.type])
    ones = ("cos.", "lengths", "source")
    feeds |= {name: feed + 1 for name, feed in feeds.items() if name.startswith(ones)}
    wanted = [value.name for value in opened.get_outputs() if "_out." not in value.name]
    with one_line("packed weights can't be tried"):
        return np.concatenate([np.asarray(said).reshape(-1) for said in opened.run(wanted, feeds)])


def _sizes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in FILES}


def _place(bundle: Path, graph: str) -> Path:
    digest = hashlib.sha256(str(bundle if graph == GRAPH else bundle / graph).encode()).hexdigest()
    return cache_dir() / "prepacked" / f"{bundle.name[:80]}-{digest[:12]}"


def _note(bundle: Path) -> dict[str, Any]:
    manifest = (bundle / MANIFEST).read_bytes()  # it holds the hashes of graph and weights
    about = [ort.__version__, platform.machine(), *sorted(hardware.flags())]
    key = hashlib.sha256(manifest + "\0".join(about).encode()).hexdigest()
    return {"key": key, "bundle": str(bundle)}


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def _drop_orphans(folder: Path) -> None:
    """Remove what was packed for bundles that are gone."""
    for note in folder.glob(f"*/{KEY}"):
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            if not Path(json.loads(note.read_text(encoding="utf-8"))["bundle"]).exists():
                shutil.rmtree(note.parent)

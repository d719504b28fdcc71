"""Keep weights in the user's cache, in the packed form that this processor's kernels read.

When a session starts, ONNX Runtime packs matrices into a private copy. ONNX Runtime can also save the
graph with the packed matrices, so that later sessions map the matrices from the file. Such sessions start
in a third less time, and the operating system may share or drop their memory. The packed form depends on
the processor, the version of ONNX Runtime and the bundle. So key.json stores a hash of all three, and the
files are written again if the hash differs.

    CACHE/prepacked/NAME-HASH/    one folder for each path of a graph
        model.onnx, model.onnx.data
        probe.npy                 the graph's output for one token, from the session that packed
        key.json                  {key, bundle: its path, sizes: of the files, or {} if the copy is wrong}

ONNX Runtime 1.31 reads some shapes back wrongly, without an error (a vocabulary of 97, a width of 160).
The cause is that kernels align their parts by address, and the file doesn't keep the alignment. So each
session first runs one token through the weights that it read. If the result differs from the original
graph's result, the saved copy is removed and never made again.
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypedDict

import numpy as np
import onnxruntime as ort

from ...refimpl.checkpoint.formats.sha256 import sha256_of
from .. import hardware
from ..bundle.atomic_dir import replacing
from ..bundle.graph_io import GRAPH
from ..bundle.manifest import DATA, MANIFEST
from ..bundle.schemes import Products
from ..hub.cache_dir import PACKED_KEY, cache_dir
from .session import one_line, open_session, options

PROBE = "probe.npy"
FILES = (GRAPH, DATA, PROBE)

TYPES = {
    "tensor(int64)": np.int64,
    "tensor(int8)": np.int8,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}

# Below this a session starts at once, and a copy isn't worth its space on disk.
SMALLEST = 16 * 2**20
# A saved copy holds the matrices both as they were and packed, and some space must be left.
SPACE = 4
# How far logits may differ, as a share of the largest: with another number of threads sums round differently
# and some codes change, but a copy that is unsound differs by far more.
APART = 2**-6


Own = Callable[[Path], ort.SessionOptions]  # a session's options by its graph


class Key(TypedDict):
    """The content of key.json, without the sizes of the files."""

    key: str
    bundle: str


def session(
    bundle: Path,
    threads: int | None,
    graph: str = GRAPH,
    *,
    products: Products = "static",
    patterns: bool = True,
) -> ort.InferenceSession:
    """Open a session on the CPU over the packed weights of one of a bundle's graphs.

    If the packed weights aren't in the user's cache yet, the function saves the weights there. If that
    fails, no error is raised, because the bundle itself can still be opened. `products` and `patterns`
    have the same meaning as in `runtime.ort.session.options`.
    """
    bundle, own = bundle.resolve(), partial(options, threads, products=products, patterns=patterns)
    size = (bundle / DATA).stat().st_size
    if size >= SMALLEST:
        with suppress(Exception):  # a file that anything could have written can raise anything
            path, key = _path(bundle, graph), _key(bundle)
            sound = _sound(path, key)
            if sound is None and shutil.disk_usage(_existing(path)).free > SPACE * size:
                return _saved(bundle / graph, path, key, own)
            if sound and (opened := _packed(path, key, own)) is not None:
                return opened
    return open_session(bundle / graph, "cpu", own(bundle / graph))


def _sound(path: Path, key: Key) -> bool | None:
    """Return True if the cache contains packed weights for this key, False if such weights were found to be
    wrong, and None if there are none yet.
    """
    try:
        stored = json.loads((path / PACKED_KEY).read_text(encoding="utf-8"))
        if stored == {**key, "sizes": {}}:
            return False
        return True if stored == {**key, "sizes": _sizes(path)} else None
    except (OSError, ValueError, RecursionError):
        return None


def _packed(path: Path, key: Key, own: Own) -> ort.InferenceSession | None:
    """Open a session over the packed weights. Returns None if its result for one token differs from the
    graph's result.
    """
    session_options = own(path / GRAPH)
    # The graph was optimized already, for this very processor.
    session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    opened = open_session(path / GRAPH, "cpu", session_options)
    want, got = np.load(path / PROBE, allow_pickle=False), _probe(opened)
    if np.abs(got - want).max() <= APART * np.abs(want).max():
        return opened
    del opened
    with replacing(path) as new:
        (new / PACKED_KEY).write_text(json.dumps({**key, "sizes": {}}), encoding="utf-8")
    return None


def _saved(graph: Path, path: Path, key: Key, own: Own) -> ort.InferenceSession:
    """Open a session over the graph, and save its packed weights in the cache."""
    drop_orphans(path.parent)
    with replacing(path) as new:
        session_options = own(graph)
        session_options.optimized_model_filepath = str(new / GRAPH)
        for name, value in (
            ("save_external_prepacked_constant_initializers", "1"),
            ("optimized_model_external_initializers_file_name", DATA),
            ("optimized_model_external_initializers_min_size_in_bytes", "1024"),
        ):
            session_options.add_session_config_entry(f"session.{name}", value)
        opened = open_session(graph, "cpu", session_options)
        np.save(new / PROBE, _probe(opened))
        (new / PACKED_KEY).write_text(json.dumps({**key, "sizes": _sizes(new)}), encoding="utf-8")
    return opened


def _probe(opened: ort.InferenceSession) -> np.ndarray:
    """Return the graph's outputs for one token at the first position, without the cache.

    Every weight contributes to these outputs: logits, predictions, or an encoder's keys and values.
    """
    inputs = {}
    for value in opened.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        inputs[value.name] = np.zeros(shape, TYPES[value.type])
        if value.name.startswith(("cos.", "lengths", "encoder_lengths")):
            inputs[value.name] += 1
    names = [value.name for value in opened.get_outputs() if "_out." not in value.name]
    with one_line("packed weights can't be tried"):
        return np.concatenate([np.asarray(output).reshape(-1) for output in opened.run(names, inputs)])


def _sizes(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_size for name in FILES}


def _path(bundle: Path, graph: str) -> Path:
    """The folder of a graph's packed weights in the cache."""
    digest = sha256_of(str(bundle if graph == GRAPH else bundle / graph).encode()).hexdigest()
    return cache_dir() / "prepacked" / f"{bundle.name[:80]}-{digest[:12]}"


def _key(bundle: Path) -> Key:
    manifest = (bundle / MANIFEST).read_bytes()  # it holds the hashes of graph and weights
    about = [ort.__version__, platform.machine(), *sorted(hardware.flags())]
    key = sha256_of(manifest + "\0".join(about).encode()).hexdigest()
    return {"key": key, "bundle": str(bundle)}


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def drop_orphans(folder: Path) -> None:
    """Remove the packed weights of bundles that no longer exist. `folder` contains a folder for each
    bundle.
    """
    for key in folder.glob(f"*/{PACKED_KEY}"):
        with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            if not Path(json.loads(key.read_text(encoding="utf-8"))["bundle"]).exists():
                shutil.rmtree(key.parent)

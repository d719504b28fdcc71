"""Use tfm's own kernels: load their library, and keep the weights that they read in the user's cache.

    CACHE/prepacked/NAME-HASH/    one folder for each path of a bundle
        kernels.data              the weights (`runtime.bundle.kernel_storage`), the same for all instruction
                                  sets
        key.json                  {key, bundle: its path, size and sha256 of kernels.data}

An export writes this folder when it checks its new bundle. The graphs over kernels are read from the
bundle, and their weights from kernels.data. If kernels.data doesn't match its key.json, it is written
again.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import shutil
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort

from ...refimpl.checkpoint.formats.file_bytes import FileBytes
from ...refimpl.checkpoint.formats.sha256 import sha256_of
from ...refimpl.errors import BundleError, DeviceError, NumericError, TfmError
from ..bundle import kernel_storage, weight_storage
from ..bundle.atomic_dir import replacing, settled
from ..bundle.bundle import Bundle
from ..bundle.graph_io import graphs
from ..bundle.manifest import MANIFEST
from ..bundle.plan import Tensor, end
from ..bundle.same_bits import SameBits, promise
from ..hub.cache_dir import PACKED_KEY, cache_dir
from ..hub.checked_bundles import is_recorded, record, state_of
from ..kernels.library import SWITCH, Library, find, forced
from .prepacked_weights import drop_orphans
from .session import in_one_line, one_line, open_session, options

TOO_LARGE = "a key or value doesn't fit the cache"  # as ort_ops.cpp says it
CacheType = Literal["float32", "float16", "int8", "int4"]  # what keys and values are kept in
FORM = 1  # of kernels.data
SPACE = 1.1  # of its bytes that must be free
HUGE_PAGE = 2**21


@dataclass(frozen=True)
class KernelBackend:
    """The parts that sessions over tfm's kernels need.

    - `library`: the library of kernels.
    - `weights`: the folder that contains a bundle's kernels.data.
    - `cache`: the type of the cached keys and values; None if the kernels cache none.
    """

    library: Library
    weights: Path
    cache: CacheType | None = None  # None where the kernels keep no keys and values

    @property
    def name(self) -> str:
        cache = "" if self.cache is None else f", cache in {self.cache}"
        return f"kernels ({self.library.instruction_set}{cache})"

    def session(
        self,
        file: str,
        content: bytes,
        tensors: Mapping[str, Tensor],
        threads: int | None,
        *,
        patterns: bool = True,
    ) -> ort.InferenceSession:
        """Open a session over a graph of kernels.

        - `file`: the name of the graph's file.
        - `content`: the bytes of the graph.
        - `tensors`: the places of the graph's weights in kernels.data.
        - `threads`: the number of threads; None means all useful threads.
        - `patterns`: allocate the values of a run as one block of memory from the second run on.
        """
        session_options = options(threads, patterns=patterns)
        _register(self.library, session_options)
        weights, values = _mapped(self.weights / kernel_storage.DATA), []
        for name, at in tensors.items():
            array = weights[at.offset : at.offset + at.length].view(at.dtype).reshape(at.shape)
            values.append(ort.OrtValue.ortvalue_from_numpy(array))
            session_options.add_initializer(name, values[-1])
        place = self.weights / file  # only its folder counts
        session = open_session(place, "cpu", session_options, content)
        weakref.finalize(session, values.clear)  # till then they stay: ONNX Runtime has their addresses alone
        return session


def _mapped(path: Path) -> np.ndarray:
    """Map a file into memory and return its bytes. If Linux keeps the file in huge pages, the mapping uses
    huge pages.

    ONNX Runtime itself would make one mapping per tensor, and only pages of 4 KiB fit these mappings. The
    processor must then read larger page tables, and after other work a prompt takes an eighth longer.
    """
    with open(path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # of a kernel that was built without them
            mapping.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(mapping, np.uint8)


def run_error(model: Path, error: Exception) -> TfmError:
    """Convert an error that ONNX Runtime raised in a run to an error of tfm with a message of one line.

    The result is a NumericError if a key or value is too large for the kernels' cache.
    """
    if TOO_LARGE not in str(error):
        return in_one_line(f"{model} can't be run", error)
    return too_large_error()


def too_large_error() -> NumericError:
    """Return the error for a key or value that the kernels' cache can't hold."""
    return NumericError(
        f"{TOO_LARGE}, because the number is too large for float16 or not finite: set {SWITCH}=0 to use ONNX "
        "Runtime's operators"
    )


def choose(bundle: Bundle, notify: Callable[[str], None] = lambda _: None) -> KernelBackend | str:
    """Return the kernels' backend for a bundle on this machine's CPU, or a line that says why the kernels
    can't be used.

    Raises DeviceError if the user asks for an instruction set that can't be used. `notify` is called with
    messages about work that is done only once, such as trying a library or writing weights.
    """
    library = library_for(bundle, notify)
    if isinstance(library, str):
        return library
    try:
        return prepared(bundle, library, notify)
    except OSError as error:
        return _refused(bundle, no_room(error))
    except TfmError as error:
        return _refused(bundle, f"their weights can't be written: {error}")


def prepared(
    bundle: Bundle, library: Library, notify: Callable[[str], None] = lambda _: None
) -> KernelBackend:
    """Return the backend that uses a library. If the bundle's kernels.data isn't in the user's cache yet,
    write it there.

    For a bundle that is being exported, the cache uses the bundle's final path. Raises OSError if the
    cache has no room for the weights, or BundleError if no kernels can read the weights.
    """
    path, size = settled(bundle.path.resolve()), end(bundle.kernel_tensors)
    folder, key = _folder(path), _key(bundle)
    if not _is_whole(folder, key, size):
        drop_orphans(folder.parent)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(folder.parent).free) < SPACE * size:
            raise OSError(errno.ENOSPC, f"the weights need {size} bytes, but {free} bytes are free")
        notify(f"preparing {size / 1e6:.1f} MB of weights for this processor, the first time only")
        with replacing(folder) as new:
            write(bundle, new)
            about = {"sha256": FileBytes(new / kernel_storage.DATA, BundleError).sha256(), "size": size}
            text = json.dumps({"key": key, "bundle": str(path), **about})
            (new / PACKED_KEY).write_text(text, encoding="utf-8")
    return KernelBackend(library, folder, cache_type(bundle))


def no_room(error: OSError) -> str:
    """Return one line that says why the user's cache can't store the kernels' weights."""
    return f"the cache {cache_dir()} can't store the kernels' weights: {error.strerror}"


def library_for(bundle: Bundle, notify: Callable[[str], None] = lambda _: None) -> Library | str:
    """Return the library of kernels that can compute a bundle on this machine, or a line that says why none
    can.

    Raises DeviceError if the user asks for an instruction set that can't be used.
    """
    if reason := without_graphs(bundle):
        return _refused(bundle, reason)
    library = find(lambda stage, done, total: notify(stage))
    reason = why_refused(library) if isinstance(library, Library) else library.reason
    if isinstance(library, Library) and not reason:
        return library
    return _refused(bundle, reason)


def _refused(bundle: Bundle, reason: str) -> str:
    """Return the reason why kernels don't compute a bundle.

    Raises DeviceError instead if the user asks for an instruction set and the bundle has graphs over
    kernels.
    """
    if (name := forced()) and bundle.plan.kernel_graphs:
        raise DeviceError(f"{SWITCH}={name} can't be used: {reason}")
    return reason


def why_refused(library: Library) -> str:
    """Return the reason why this version of ONNX Runtime can't load the library's operators; an empty text if
    it can.
    """
    try:
        _register(library, ort.SessionOptions())
    except DeviceError as error:
        return str(error)
    return ""


def _register(library: Library, session_options: ort.SessionOptions) -> None:
    """Add the library's operators, with its instruction set, to a session's options. Raises DeviceError if
    that fails.
    """
    try:
        loaded = ctypes.CDLL(str(library.path))
        loaded.tfm_use.restype = loaded.tfm_has_api.restype = ctypes.c_bool
        if not loaded.tfm_use(library.instruction_set.encode()):
            raise DeviceError(f"the library of kernels has no functions for {library.instruction_set}")
    except (OSError, AttributeError) as error:
        raise DeviceError(f"the library of kernels can't be loaded: {error!s:.200}") from None
    with one_line("ONNX Runtime can't register the kernels", DeviceError):
        session_options.register_custom_ops_library(str(library.path))
    if not loaded.tfm_has_api():
        raise DeviceError(
            f"ONNX Runtime {ort.__version__} lacks version 17 of the C interface, which the kernels need"
        )


def cache_type(bundle: Bundle) -> CacheType | None:
    """Return the type in which tfm's kernels cache a bundle's keys and values.

    Returns None if the bundle caches no keys and values, or if its graph copies its cache in each step.
    """
    if bundle.cache not in ("shared", "windowed"):
        return None
    kv = bundle.config.kv
    return (bundle.manifest.kernel_cache or "float32") if kv == "float" else kv


def without_graphs(bundle: Bundle) -> str:
    """Return the reason why tfm's kernels can't run a bundle on any machine; an empty text if they can."""
    names = bundle.plan.kernel_graphs
    if not names:
        return "tfm's kernels compute only bundles of target ort-cpu with weights in blocks"
    if names[0] not in bundle.manifest.files:
        return f"an older tfm wrote the bundle, which lacks {names[0]}: export the model again"
    if bundle.plan.has_minima and not bundle.manifest.kernel_minima:
        return f"an older tfm wrote {names[0]} of the bundle in another format: export the model again"
    return ""


def same_bits(bundle: Bundle) -> SameBits:
    """Return whether a bundle's graphs promise on this machine that a token's bits don't depend on other
    tokens.

    `runtime.bundle.same_bits` explains the promise. The function reads the graphs.
    """
    if isinstance(library_for(bundle), str):
        return SameBits("no kernels compute it here")
    parts = graphs(bundle.config, bundle.cache == "windowed", bundle.manifest.halved)
    operators = (operator for graph in parts for operator in bundle.kernel_graph(graph)[1])
    return promise(operators, bundle.config)


def write(bundle: Bundle, folder: Path) -> None:
    """Write kernels.data from a bundle's weights into a folder, one huge page at a time.

    If the file system supports huge pages, Linux keeps bytes that are written in one call in one huge
    page.
    """
    page, filled = np.empty(HUGE_PAGE, np.uint8), 0
    with open(folder / kernel_storage.DATA, "wb") as file:
        for part in _parts(bundle):
            rest = part
            while rest.size:
                taken = rest[: HUGE_PAGE - filled]
                page[filled : filled + taken.size] = taken
                filled, rest = filled + taken.size, rest[taken.size :]
                if filled == HUGE_PAGE:
                    file.write(page.data)
                    filled = 0
        file.write(page[:filled].data)


def _parts(bundle: Bundle) -> Iterator[np.ndarray]:
    """Yield the bytes of kernels.data, in order."""
    places, forms = bundle.kernel_tensors, bundle.manifest.forms
    end = 0
    for group in bundle.plan.groups.values():
        stored = {name: bundle.tensor(name) for name in weight_storage.specs(group, bundle.dtype)}
        for name, array in kernel_storage.store(group, stored, forms).items():
            yield np.zeros(places[name].offset - end, np.uint8)
            yield array.reshape(-1).view(np.uint8)
            end = places[name].offset + array.nbytes


def _is_whole(folder: Path, key: str, size: int) -> bool:
    """Return whether a folder contains the kernels.data of this key, with exactly the bytes that tfm
    wrote.
    """
    with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError, BundleError):
        stored = json.loads((folder / PACKED_KEY).read_text(encoding="utf-8"))
        if stored.get("key") == key and stored.get("size") == size:
            path, sha256 = folder / kernel_storage.DATA, stored.get("sha256")
            state = state_of([path], sha256)
            if is_recorded(path, state):
                return True
            data = FileBytes(path, BundleError)
            if len(data) == size and data.sha256() == sha256:
                if state_of([path], sha256) == state:  # nothing changed meanwhile
                    record(path, state)
                return True
    return False


def _folder(path: Path) -> Path:
    digest = sha256_of(f"{path}/{kernel_storage.DATA}".encode()).hexdigest()
    return cache_dir() / "prepacked" / f"{path.name[:80]}-{digest[:12]}"


def _key(bundle: Bundle) -> str:
    content = (bundle.path / MANIFEST).read_bytes()  # it holds the hashes of graph and weights
    return sha256_of(content + f"\0{FORM}".encode()).hexdigest()

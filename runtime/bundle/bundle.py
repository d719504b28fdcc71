"""Open an exported model on disk, format 3.

A bundle is a directory. It MUST contain

    tfm.json          the manifest (`runtime.bundle.manifest`)
    model.onnx        the graph; its weights MUST lie in model.onnx.data
    model.onnx.data   the weights, and nothing but the weights
    golden/NAME.npy   inputs and the specification's outputs, one array in each file
                      (`runtime.bundle.golden_files`)

and, if and only if the model is a decoder that reads an encoder,

    encoder.onnx      the encoder's graph; its weights MUST lie in model.onnx.data too, each tensor once

A bundle for ort-cpu with weights in blocks MAY also contain kernels.onnx, and encoder.kernels.onnx beside
encoder.onnx. These are the same graphs over tfm's own kernels (`runtime.bundle.kernel_storage`). A bundle
MAY contain tokenizer.json, chat_template.jinja, tool_use.jinja (the template of chats with tools) and
certificate.json. It MAY also contain the licences, notices and model card of its source under their own
names (`refimpl.checkpoint.licence`). All these files MUST be regular files, not links. Other files MAY be
in the directory; tfm never reads them.

A graph MUST have the inputs and outputs that `runtime.bundle.graph_io` names for the kind of model: a
decoder, a plain encoder, or a decoder that reads an encoder. A graph MUST also pass
`runtime.bundle.graph_check`.

The same export gives the same bytes in all files except certificate.json. The hashes detect accidental
damage. They don't protect against an attacker, who can change the hashes too.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ...refimpl.checkpoint.formats.file_bytes import FileBytes, read_file
from ...refimpl.checkpoint.formats.sha256 import new, sha256_of
from ...refimpl.checkpoint.generation_config import Generation
from ...refimpl.checkpoint.licence import LARGEST, is_notice
from ...refimpl.config import Config
from ...refimpl.errors import BundleError, NumericError
from ...refimpl.ops.quant import Blocks
from ...refimpl.params.tree import Tree
from . import golden_files, kernel_storage, manifest, weight_storage
from .atomic_dir import recover
from .graph_check import Weights, check_graph
from .graph_io import ENCODER, GRAPH, MTP, Graph
from .manifest import (
    AGAIN,
    CERTIFICATE,
    DATA,
    IN_LAYOUT,
    MANIFEST,
    OPTIONAL,
    TEMPLATE,
    TOKENIZER,
    TOOL_USE,
    File,
    Manifest,
)
from .plan import Plan, Tensor
from .same_bits import Operator
from .schemes import Products

GRAPHS = (GRAPH, ENCODER, MTP, *kernel_storage.GRAPHS.values())
__all__ = ["Bundle", "open_bundle", "recover"]

LIMITS: dict[str, int] = {
    **dict.fromkeys(GRAPHS, 2**26),
    MANIFEST: 2**26,
    CERTIFICATE: 2**26,
    **dict.fromkeys(golden_files.FILES, 2**24),
    TOKENIZER: 2**26,
    TEMPLATE: 2**18,
    TOOL_USE: 2**18,
}
# Bytes that are hashed at a time, and looked at while they are in the processor's cache.
CHUNK = 2**18


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Its manifest is valid, and its files have the sizes that the manifest states."""

    path: Path
    manifest: Manifest

    @property
    def config(self) -> Config:
        return self.manifest.config

    @property
    def plan(self) -> Plan:
        """The plan of how the bundle stores its weights."""
        return self.manifest.plan

    @property
    def code_replaced_by(self) -> str:
        return self.manifest.source.code_replaced_by

    @property
    def target(self) -> str:
        return self.manifest.target

    @property
    def quant(self) -> str:
        return self.manifest.quant

    @property
    def products(self) -> Products:
        """How products of 8-bit integers get the scales of their inputs: "dynamic", "static", or "float" if
        the bundle has no such products.
        """
        columns = [one for one in self.manifest.schemes.values() if one.by_column]
        if not columns or any(one.activation_bits == 16 for one in columns):
            return "float"
        return "static" if any(one.activations == "static" for one in columns) else "dynamic"

    @property
    def dtype(self) -> str:
        return self.manifest.dtype

    @property
    def cache(self) -> str:
        return self.manifest.cache

    @property
    def refused(self) -> tuple[str, ...]:
        """The reasons why the export didn't use fused operators, or why a GPU can't capture a step as a CUDA
        graph.
        """
        return self.manifest.refused

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The bundle's graphs over the target's operators. Graphs over tfm's own kernels aren't included."""
        return self.plan.graphs(self.manifest.cache)

    @property
    def generation(self) -> Generation:
        return self.manifest.generation

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classification head's labels; empty for a model without labels."""
        return self.manifest.labels

    @property
    def tokenizer(self) -> str | None:
        """The text of tokenizer.json; None if the bundle has no such file."""
        return self._text(TOKENIZER)

    @property
    def chat_template(self) -> str | None:
        """The text of chat_template.jinja; None if the bundle has no such file."""
        return self._text(TEMPLATE)

    @property
    def tool_use_template(self) -> str | None:
        """The text of tool_use.jinja; None if the bundle has no such file."""
        return self._text(TOOL_USE)

    @cached_property
    def _data(self) -> FileBytes:
        return FileBytes(self.path / DATA, BundleError)

    @cached_property
    def _owners(self) -> dict[str, weight_storage.Group]:
        return {leaf: group for group in self.plan.groups.values() for leaf in group.leaves}

    @cached_property
    def _joined(self) -> dict[str, np.ndarray | Blocks]:
        """The parameters of the latest group with several parameters. They are kept because callers read the
        parameters of a group one after the other.
        """
        return {}

    def tensor(self, name: str) -> np.ndarray:
        """Read the stored tensor `name` from the file. An int4 or uint4 tensor is returned as packed
        bytes.
        """
        entry = self.manifest.tensors[name]
        raw = self._data.read(entry.offset, entry.offset + entry.length)
        if entry.dtype in ("int4", "uint4"):
            return raw
        return raw.view(entry.dtype).reshape(entry.shape)

    def leaf(self, name: str) -> np.ndarray | Blocks:
        """Read one parameter from the file. Its arrays have the types in which they are stored."""
        if (leaf := self._joined.get(name)) is not None:
            return leaf
        group = self._owners[name]
        names = weight_storage.specs(group, self.dtype)
        leaves = weight_storage.restore(group, {tensor: self.tensor(tensor) for tensor in names})
        self._joined.clear()
        if len(leaves) > 1:
            self._joined.update(leaves)
        return leaves[name]

    def params(self) -> Tree:
        """Return all parameters with which the graph computes, as a parameter tree with floats in float32.

        A parameter is read from the file when it is first used.
        """

        def load(name: str) -> np.ndarray | Blocks:
            leaf = self.leaf(name)
            if isinstance(leaf, Blocks):
                return replace(leaf, scale=leaf.scale.astype(np.float32, copy=False))
            return leaf.astype(np.float32, copy=False)

        return self.plan.shapes.lazily(load)

    def check_hashes(self) -> None:
        """Read every file and compare its hash with the manifest's hash.

        Raises BundleError with the name of the first file that has a different hash. Raises NumericError
        with the name of a tensor that contains NaN or infinity, even if the hash of its file is right.
        """
        for name, file in self.manifest.files.items():
            if name == DATA:
                _check_data(self.path, file, self.manifest.tensors)
            else:
                _check_hash(self.path, name, file)

    def check_graphs(self) -> None:
        """Check all graphs over the target's operators with `check_graph`."""
        for graph in self.graphs:
            self.check_graph(graph)

    def check_graph(self, graph: Graph) -> None:
        """Raise BundleError if no export can have written this graph. ONNX Runtime must not load such a
        graph.
        """
        path = self.path / graph.file
        data = read_file(path, LIMITS[graph.file], BundleError)
        check_graph(data, graph, Weights(DATA, self.manifest.tensors), self.dtype, str(path))

    def kernel_graph(self, graph: Graph) -> tuple[bytes, set[Operator]]:
        """Check the graph over tfm's own kernels that replaces `graph`. Returns the bytes of its file and its
        operators.

        Raises BundleError if no export can have written the graph over kernels.
        """
        path = self.path / kernel_storage.GRAPHS[graph.file]
        data = read_file(path, LIMITS[path.name], BundleError)
        weights = Weights(kernel_storage.DATA, self.kernel_tensors)
        operators = check_graph(data, graph, weights, self.dtype, str(path), kernel_storage.KERNEL_OPERATORS)
        return data, operators

    @property
    def read_size(self) -> int:
        """The number of bytes of weights that one decode step reads if tfm's kernels compute it."""
        return self.plan.read_size(self.manifest.forms)

    @cached_property
    def kernel_tensors(self) -> dict[str, Tensor]:
        """The type, shape and place of each tensor in kernels.data, the file that the runtime writes."""
        return self.plan.kernel_tensors(self.manifest.forms)

    def checking(self) -> Callable[[], None]:
        """Start `check_hashes` in a thread. Returns a function that waits for the thread and raises its
        error.
        """
        errors: list[Exception] = []

        def run() -> None:
            try:
                self.check_hashes()
            except Exception as error:  # raised again by whoever waits
                errors.append(error)

        thread = threading.Thread(target=run, name="tfm-hashes", daemon=True)
        thread.start()

        def wait() -> None:
            thread.join()
            if errors:
                raise errors[0]

        return wait

    def _text(self, name: str) -> str | None:
        if name not in self.manifest.files:
            return None
        try:
            return read_file(self.path / name, LIMITS[name], BundleError).decode("utf-8")
        except UnicodeDecodeError:
            raise BundleError(f"{self.path / name}: must be UTF-8; {AGAIN}") from None


def open_bundle(path: Path | str, check_hashes: bool = False) -> Bundle:
    """Open a bundle. If an export to its path was interrupted, the function first finishes or undoes the
    export.

    The hashes of the graphs are compared with the manifest. With `check_hashes`, the hashes of all files
    are compared. Raises BundleError if the directory breaks a rule of the format.
    """
    path = Path(path)
    recover(path)
    if (path / IN_LAYOUT / MANIFEST).exists() and not (path / MANIFEST).exists():
        raise BundleError(
            f"{path}: must be a bundle, but it was converted for another runtime: give the path of the "
            "bundle that was converted"
        )
    if not path.is_dir() or not any((path / name).exists() for name in manifest.NAMES):
        if (path / "config.json").exists():
            state = "is a checkpoint"
        else:
            state = f"has no {MANIFEST}" if path.is_dir() else "isn't a directory"
        raise BundleError(
            f"{path}: must be a bundle, a directory that `tfm-cli export` writes, but it {state}"
        )
    _regular(path, MANIFEST)
    contents = manifest.load(read_file(path / MANIFEST, LIMITS[MANIFEST], BundleError), str(path / MANIFEST))
    for name, file in contents.files.items():
        if (got := _regular(path, name)) != file.size:
            raise BundleError(
                f"{path / name}: must have {file.size} bytes, but it has {got} (was it truncated?); {AGAIN}"
            )
    if os.path.lexists(path / CERTIFICATE):
        _regular(path, CERTIFICATE)
    for name in (*GRAPHS[1:], *OPTIONAL):
        if name not in contents.files and os.path.lexists(path / name):
            raise BundleError(f"{path / name}: this file isn't in the manifest: remove it, or {AGAIN}")
    bundle = Bundle(path, contents)
    for name in (name for name in GRAPHS if name in contents.files):
        _check_hash(path, name, contents.files[name])
    if check_hashes:
        bundle.check_hashes()
    return bundle


def manifest_hash(bundle: Path) -> str:
    """Return the SHA-256 of tfm.json, a file that contains the hashes of all other files."""
    return sha256_of((bundle / MANIFEST).read_bytes()).hexdigest()


def _regular(directory: Path, name: str) -> int:
    """Return the size of a regular file in bytes. Raises BundleError for a link, because a bundle must
    contain all its files.
    """
    path = directory / name
    limit = LARGEST if is_notice(name) else LIMITS.get(name)
    try:
        in_folder = path.parent == directory or stat.S_ISDIR(path.parent.lstat().st_mode)
        status = path.lstat()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; a bundle must contain this file; {AGAIN}") from None
    if not (in_folder and stat.S_ISREG(status.st_mode)):
        raise BundleError(f"{path}: must be a regular file, not a link or a folder; {AGAIN}")
    if limit is not None and status.st_size > limit:
        raise BundleError(f"{path}: may have at most {limit} bytes, but it has {status.st_size}; {AGAIN}")
    return status.st_size


def _check_hash(path: Path, name: str, file: File) -> None:
    _compare(path / name, FileBytes(path / name, BundleError).sha256(), file)


def _compare(path: Path, got: str, file: File) -> None:
    if got != file.sha256:
        raise BundleError(f"{path}: the file's bytes aren't the exported bytes (SHA-256 differs); {AGAIN}")


def _check_data(path: Path, file: File, tensors: Mapping[str, Tensor]) -> None:
    """Check the hash of the weights, and that each of their floats is finite. The file is read once."""
    data = FileBytes(path / DATA, BundleError)
    buffer, digest, at = np.empty(CHUNK, np.uint8), new(len(data)), 0
    not_finite: list[str] = []

    def read_to(end: int, dtype: str | None = None, name: str = "") -> None:
        nonlocal at
        while at < end:
            part = buffer[: min(CHUNK, end - at)]
            data.read_into(part, at)
            digest.update(part.data)
            at += len(part)
            if dtype is not None and not is_finite(part.view(dtype)):
                not_finite.append(name)

    for name, tensor in tensors.items():
        read_to(tensor.offset)  # what lies between two tensors
        floats = tensor.dtype in ("float32", "float16")
        read_to(tensor.offset + tensor.length, tensor.dtype if floats else None, name)
    _compare(path / DATA, digest.hexdigest(), file)
    if not_finite:
        raise NumericError(
            f"{path / DATA}: {not_finite[0]} must be finite, but it contains NaN or infinity; {AGAIN}"
        )


def is_finite(values: np.ndarray) -> bool:
    """Return whether every number of a float array is finite.

    The function tests the bits, because a CPU has no fast arithmetic for float16.
    """
    bits = values.view(f"u{values.itemsize}")
    exponent = bits.dtype.type(np.array(np.inf, values.dtype).view(bits.dtype))
    return bool(((bits & exponent) != exponent).all())

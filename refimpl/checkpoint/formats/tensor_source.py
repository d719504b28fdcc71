"""Interfaces of files with named tensors, as the loader of weights reads them, and functions that find such
files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ...errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np

    from ...ops.quant import Blocks
    from .model_directory import Directory
    from .safetensors import SafeTensors
    from .torch_file import TorchFile

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH_SINGLE, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
TORCH_FILE = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
CTRANSLATE2 = "model.bin"
WEIGHTS = (SINGLE, INDEX, TORCH_SINGLE, TORCH_INDEX)  # of a directory, the first that is there
CODE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz")  # formats that can run code, or bombs
CONVERT = (
    "tfm doesn't open this format, which can run code; if you trust the file, convert it in Python: "
    "transformers.CLASS.from_pretrained(DIR).save_pretrained(OUT), where CLASS is what config.json names as "
    "architectures"
)


class TensorSource(Protocol):
    """The interface of a file with named tensors: SafeTensors, TorchFile, GGUF, or several files as one."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def kind(self, name: str) -> str: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def load(self, name: str, part: int | None = None) -> np.ndarray: ...
    def native(self, name: str, part: int | None = None) -> Blocks | None: ...


class GgufSource(TensorSource, Protocol):
    """The interface of a GGUF file: tensors, and metadata that contain the config."""

    @property
    def path(self) -> Path: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


class RawSource(TensorSource, Protocol):
    """The interface of a file whose tensors can also be read in their stored form, without conversion to
    float32.
    """

    def raw(self, name: str, part: int | None = None) -> np.ndarray: ...


def is_weights(name: str) -> bool:
    """Return whether a file with this name contains weights that tfm reads, or an index of such files."""
    endings = (".safetensors", ".safetensors.index.json", TORCH_INDEX)
    return name.endswith(endings) or name == CTRANSLATE2 or TORCH_FILE.fullmatch(name) is not None


def not_opened(path: Path) -> CheckpointError:
    """Return the error for a path that isn't a directory, but a file of a format that can run code."""
    if TORCH_FILE.fullmatch(path.name):
        return CheckpointError(
            f"{path}: give the directory of this file instead, which must have config.json"
        )
    return CheckpointError(f"{path}: {CONVERT}")


def missing_weights(path: Path) -> CheckpointError:
    """Return the error for a model directory that contains no weights that tfm may open. `path` is the
    directory or a file in it, such as config.json.
    """
    directory = path if path.is_dir() else path.parent
    code = sorted(
        file.name for file in directory.glob("*") if file.suffix in CODE and not is_weights(file.name)
    )
    hint = f"; the directory has {code[0]}, but {CONVERT}" if code else ""
    return CheckpointError(
        f"{directory}: has no weights: it must contain one of {', '.join(WEIGHTS[:-1])} or {WEIGHTS[-1]}"
        f"{hint}"
    )


def shards(directory: Directory, folder: str = "") -> list[SafeTensors | TorchFile]:
    """Return the weight files of a model directory. Raises CheckpointError if there are none, or if their
    tensors aren't exactly the tensors that their index lists.

    With `folder`, the weights must be a single file in that folder of the directory. If there are both
    safetensors and torch files, the safetensors files are used.
    """
    from .safetensors import SafeTensors  # readers, which nobody needs who asks for names alone
    from .torch_file import TorchFile

    kinds: tuple[tuple[str, str, type[SafeTensors] | type[TorchFile]], ...] = (
        (SINGLE, INDEX, SafeTensors), (TORCH_SINGLE, TORCH_INDEX, TorchFile),
    )  # fmt: skip
    for single, index, kind in kinds:
        if (file := directory.find(single, folder)) is not None:
            return [kind(file)]
        if not folder and (stated := directory.object(index)) is not None:
            return _indexed(directory, stated, index, kind)
    raise missing_weights(directory.path / folder)


def _indexed(
    directory: Directory, stated: Mapping[str, Any], index: str, kind: type[SafeTensors] | type[TorchFile]
) -> list[SafeTensors | TorchFile]:
    """Return the weight files that the index `stated` names. Raises CheckpointError if the index and the
    files disagree.
    """
    where, named = directory.path / index, stated.get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(v, str) for v in named.values()):
        raise CheckpointError(f"{where}: weight_map must map names to files, got {named!r:.80}")
    files = {
        file: kind(directory.find(file) or directory.path / file) for file in sorted(set(named.values()))
    }
    pairs = {(name, file) for file, shard in files.items() for name in shard.names}
    if odd := sorted(pairs ^ set(named.items())):
        owner = "the files list" if odd[0] in pairs else "weight_map lists"
        raise CheckpointError(
            f"{where}: weight_map and the files must list the same tensors, but only {owner} "
            f"{odd[0][0]!r:.80} in {odd[0][1]}"
        )
    return list(files.values())

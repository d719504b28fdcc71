"""Files of named tensors: what the loader of weights reads, under the names that it looks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import CheckpointError
from ..ops.quant import Blocks
from .model_directory import Directory
from .safetensors import SafeTensors

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
CODE = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz")  # formats that can run code, or bombs
CONVERT = (
    "it can run code and isn't opened; if you trust it, convert it to safetensors: in Python, "
    "transformers.CLASS.from_pretrained(DIR).save_pretrained(OUT), where CLASS is what config.json names as "
    "architectures"
)


class TensorSource(Protocol):
    """A file of named tensors: SafeTensors, GGUF, or several shards as one."""

    @property
    def names(self) -> tuple[str, ...]: ...
    def kind(self, name: str) -> str: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def load(self, name: str, part: int | None = None) -> np.ndarray: ...
    def native(self, name: str, part: int | None = None) -> Blocks | None: ...


class GgufSource(TensorSource, Protocol):
    """A GGUF file: tensors, and the metadata that state the config."""

    @property
    def path(self) -> Path: ...
    @property
    def metadata(self) -> Mapping[str, Any]: ...


class Stripped:
    """A TensorSource without a prefix in its names: of `prefixes` the first that a name begins with."""

    def __init__(self, source: TensorSource, prefixes: Sequence[str]) -> None:
        self._source = source
        self._of = {}
        for name in source.names:
            prefix = next(filter(name.startswith, prefixes), "")
            other = self._of.setdefault(name.removeprefix(prefix), name)
            if other != name:
                raise CheckpointError(f"tensors must not be there twice: {other!r:.80} and {name!r:.80}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._of)

    def kind(self, name: str) -> str:
        return self._source.kind(self._of[name])

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(self._of[name])

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        return self._source.load(self._of[name], part)

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        return self._source.native(self._of[name], part)


class Shards:
    """Several files as one TensorSource; a name may stand in one of them only."""

    def __init__(self, files: list[SafeTensors]) -> None:
        self._of = {name: file for file in files for name in file.names}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._of)

    def kind(self, name: str) -> str:
        return self._of[name].kind(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._of[name].shape(name)

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        return self._of[name].load(name, part)

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        return self._of[name].native(name, part)

    def raw(self, name: str, part: int | None = None) -> np.ndarray:
        """A tensor of whole numbers as it is stored, or one part along its first axis."""
        return self._of[name].raw(name, part)


def missing_weights(path: Path) -> CheckpointError:
    """The error for a model directory, or its config.json, without weights that may be opened."""
    directory = path if path.is_dir() else path.parent
    code = sorted(file.name for file in directory.glob("*") if file.suffix in CODE)
    hint = f"; {code[0]} is there: {CONVERT}" if code else ""
    return CheckpointError(f"{directory}: must have weights, {SINGLE} or {INDEX}{hint}")


def shards(directory: Directory) -> list[SafeTensors]:
    """The safetensors files of a directory, which hold what the index says, and nothing else."""
    path = directory.path
    if (single := directory.find(SINGLE)) is not None:
        return [SafeTensors(single)]
    index = directory.object(INDEX)
    if index is None:
        raise missing_weights(path)
    where, named = path / INDEX, index.get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(v, str) for v in named.values()):
        raise CheckpointError(f"{where}: weight_map must map names to files, got {named!r:.80}")
    files = {file: SafeTensors(directory.find(file) or path / file) for file in sorted(set(named.values()))}
    pairs = {(name, file) for file, shard in files.items() for name in shard.names}
    if odd := sorted(pairs ^ set(named.items())):
        raise CheckpointError(
            f"{where}: weight_map and the files disagree on {odd[0][0]!r:.80} in {odd[0][1]}"
        )
    return list(files.values())

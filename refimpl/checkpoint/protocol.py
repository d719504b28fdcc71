"""What export, checks and tasks ask of a model on disk; `checkpoint.open.Checkpoint` has all of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

import numpy as np

from ..config import Config, KVFormat
from ..ops.quant import Blocks
from ..params.parameter_shapes import ParameterShapes
from ..params.tree import Tree
from .generation_config import Generation
from .licence import Licence
from .weights.left_out import LeftOut

__all__ = ["ExportSource", "ModelSource", "WeightSource"]


class ModelSource(Protocol):
    """What a bundle and a checkpoint both say of their model, beside its Config and weights."""

    @property
    def tokenizer(self) -> str | None: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def tool_use_template(self) -> str | None:
        """The chat template where there are tools, None where it is the same."""
        ...

    @property
    def generation(self) -> Generation: ...
    @property
    def labels(self) -> tuple[str, ...]: ...


class WeightSource(Protocol):
    """A Config, the shapes of its weights, and these weights, which are read when they are asked for."""

    @property
    def config(self) -> Config: ...
    @property
    def shapes(self) -> ParameterShapes: ...
    @property
    def params(self) -> Tree: ...
    def leaf(self, name: str) -> np.ndarray:
        """One leaf by its dotted name, as float32."""
        ...

    def native(self, name: str) -> Blocks | None:
        """One leaf in the blocks that its file holds, or None."""
        ...

    def kind(self, name: str) -> str:
        """How its file stores a leaf: F32, BF16, Q4_1, …"""
        ...


class ExportSource(ModelSource, WeightSource, Protocol):
    """A model that can be exported."""

    @property
    def path(self) -> Path: ...
    @property
    def source(self) -> dict[str, str]:
        """Its name, and a hash over the names and bytes of its files."""
        ...

    @property
    def licence(self) -> Licence:
        """The licence that its source states, with its files."""
        ...

    @property
    def adapter_source(self) -> dict[str, str] | None:
        """The name of the adapter that is merged into its weights, if there is one, and such a hash."""
        ...

    @property
    def changed(self) -> tuple[str, ...]:
        """The leaves that the adapter changes."""
        ...

    @property
    def code_replaced_by(self) -> str:
        """The family that stands for code of its repository's own; empty where it has none."""
        ...

    @property
    def ignored_keys(self) -> tuple[str, ...]:
        """Keys of its files that nobody knows, and that were to be ignored."""
        ...

    @property
    def left_out(self) -> Mapping[str, LeftOut]:
        """Parts of its files that aren't read, by what their tensors' names begin with."""
        ...

    def with_kv(self, kv: KVFormat, scales: Mapping[str, np.ndarray] | None = None) -> Self:
        """The same with keys and values as floats or in few bits, with these scales where it has none."""
        ...

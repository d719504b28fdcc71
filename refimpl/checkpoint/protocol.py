"""Interfaces of a model on disk for export, checks and tasks. `checkpoint.open.Checkpoint` implements all of
them.
"""

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


class ModelSource(Protocol):
    """What both a bundle and a checkpoint offer besides a Config and weights: the tokenizer, templates and
    settings.
    """

    @property
    def tokenizer(self) -> str | None: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def tool_use_template(self) -> str | None:
        """The chat template for chats with tools, or None if the model has no separate template for them."""
        ...

    @property
    def generation(self) -> Generation: ...
    @property
    def labels(self) -> tuple[str, ...]: ...


class WeightSource(Protocol):
    """A Config, the shapes of its weights, and the weights. A weight is read only when it is needed."""

    @property
    def config(self) -> Config: ...
    @property
    def shapes(self) -> ParameterShapes: ...
    @property
    def params(self) -> Tree: ...
    def leaf(self, name: str) -> np.ndarray:
        """Return one parameter as float32. `name` is its dotted name."""
        ...

    def native(self, name: str) -> Blocks | None:
        """Return one parameter in the blocks that its file stores, or None if the file stores it without
        blocks.
        """
        ...

    def kind(self, name: str) -> str:
        """Return the type in which the file stores a parameter: F32, BF16, Q4_1, …"""
        ...


class ExportSource(ModelSource, WeightSource, Protocol):
    """A model that tfm can export: its weights, its tokenizer and settings, and where they come from."""

    @property
    def path(self) -> Path: ...
    @property
    def source(self) -> dict[str, str]:
        """The model's name, and a hash over the names and bytes of its files."""
        ...

    @property
    def licence(self) -> Licence:
        """The licence that the model's source states, with the licence's files."""
        ...

    @property
    def adapter_source(self) -> dict[str, str] | None:
        """The name of the adapter that is merged into the weights, and a hash of its files; None without an
        adapter.

        The hash covers the names and bytes of the files.
        """
        ...

    @property
    def changed(self) -> tuple[str, ...]:
        """The names of the parameters that the adapter changes."""
        ...

    @property
    def code_replaced_by(self) -> str:
        """The family that tfm uses in place of the repository's own code; empty if the repository has no
        code.
        """
        ...

    @property
    def ignored_keys(self) -> tuple[str, ...]:
        """Keys of the model's files that tfm doesn't know, and that the caller asked to ignore."""
        ...

    @property
    def left_out(self) -> Mapping[str, LeftOut]:
        """The parts of the model's files that tfm doesn't read, by the prefix of their tensors' names."""
        ...

    def with_kv(self, kv: KVFormat, scales: Mapping[str, np.ndarray] | None = None) -> Self:
        """Return the same model with keys and values cached in the format `kv`: as floats or in few bits.

        `scales` are used if the model has no scales of its own.
        """
        ...

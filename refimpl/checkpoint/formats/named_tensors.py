"""Tables of tensors by name, between files and callers. Each table reads its tensors from another source:

    joined          makes one table of several sources
    stripped        removes a prefix from the names
    prefixed        adds a prefix to the names
    WeightNormed    makes weights from their directions and lengths
    Rescaled        multiplies the weights of a GGUF file by the scales beside them
    LayerNumbers    makes tensors from arrays in a GGUF file's metadata

`Tensors` makes a TensorSource from such a table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import CheckpointError
from ...ops.quant import Blocks
from .tensor_source import GgufSource, TensorSource

# Maps a name to the source that contains the tensor, and to the tensor's name in that source.
Table = Mapping[str, tuple[Any, str]]


class Tensors:
    """The tensors of a table as a TensorSource. If all sources of the table are RawSources, the result is a
    RawSource too.
    """

    def __init__(self, table: Table) -> None:
        self._table = table

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._table)

    def kind(self, name: str) -> str:
        source, own = self._table[name]
        return source.kind(own)

    def shape(self, name: str) -> tuple[int, ...]:
        source, own = self._table[name]
        return source.shape(own)

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        source, own = self._table[name]
        return source.load(own, part)

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        source, own = self._table[name]
        return source.native(own, part)

    def raw(self, name: str, part: int | None = None) -> np.ndarray:
        """Return a tensor of whole numbers as it is stored. If `part` is given, return only this index of the
        first axis.
        """
        source, own = self._table[name]
        return source.raw(own, part)


def joined(sources: Sequence[TensorSource]) -> Table:
    """Return a table with the tensors of several sources. Each name may be in only one of the sources."""
    return {name: (source, name) for source in sources for name in source.names}


def prefixed(source: TensorSource, prefix: str) -> Table:
    """Return a table with the tensors of a source, with a prefix before each name."""
    return {prefix + name: (source, name) for name in source.names}


def stripped(source: TensorSource, prefixes: Sequence[str]) -> Table:
    """Return a table with the tensors of a source, with shorter names: each name loses the first of
    `prefixes` with which it begins.

    Raises CheckpointError if two names become the same.
    """
    table: dict[str, tuple[TensorSource, str]] = {}
    for name in source.names:
        prefix = next(filter(name.startswith, prefixes), "")
        _, other = table.setdefault(name.removeprefix(prefix), (source, name))
        if other != name:
            raise CheckpointError(f"a tensor must not be stored twice, as {other!r:.80} and as {name!r:.80}")
    return table


class WeightNormed(Tensors):
    """The weights g · v / ‖v‖ that torch's weight_norm stores as lengths g and directions v.

        X.weight_g and X.weight_v, or X.parametrizations.weight.original0 and original1

    ‖v‖ is computed over the axes along which g has only one number (Salimans & Kingma 2016), in float64.
    Raises CheckpointError if the shapes don't fit each other, or if the weight itself is present too.
    """

    PAIRS = (
        ("weight_g", "weight_v"),
        ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    )

    def __init__(self, source: TensorSource) -> None:
        names = set(source.names)
        self._made: dict[str, tuple[str, str]] = {}
        for g, v in self.PAIRS:
            modules = [name.removesuffix(v) for name in source.names if name.endswith("." + v)]
            self._made |= {f"{m}weight": (m + g, m + v) for m in modules if m + g in names}
        if both := sorted(self._made.keys() & names):
            _, v = self._made[both[0]]
            raise CheckpointError(
                f"a tensor must not be stored twice: {both[0]!r:.80} is also stored as {v!r:.80}"
            )
        parts = {part for pair in self._made.values() for part in pair}
        for g, v in self._made.values():
            length, direction = source.shape(g), source.shape(v)
            pairs = zip(length, direction, strict=False)
            if len(length) != len(direction) or any(one not in (1, all_) for one, all_ in pairs):
                raise CheckpointError(
                    f"tensor {g!r:.80} must have the axes of {v!r:.80}, {list(direction)}, or 1, but it has "
                    f"{list(length)}"
                )
        table = {name: (source, name) for name in source.names if name not in parts}
        super().__init__(table | {name: (source, v) for name, (_, v) in self._made.items()})

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        if name not in self._made:
            return super().load(name, part)
        source, _ = self._table[name]
        length, stored = (source.load(one) for one in self._made[name])
        direction = stored.astype(np.float64)
        axes = tuple(i for i, size in enumerate(length.shape) if size == 1)
        with np.errstate(all="ignore"):  # whoever loads a weight checks that it is finite
            norm = np.sqrt(np.square(direction).sum(axes, keepdims=True))
            weight = (length * direction / norm).astype(stored.dtype)
        return weight if part is None else weight[part]


WEIGHT, SCALE, INPUT_SCALE = ".weight", ".scale", ".input_scale"
# Scales that are parameters of the architecture itself: in Gemma 4 the norm before the router, and the
# factors of the experts' outputs.
OWN = {"gemma4": ("ffn_gate_inp", "ffn_down_exps")}


class Rescaled(Tensors):
    """A GGUF file's weights, multiplied by their scales: w = scale · stored. The table doesn't contain the
    scales as tensors.

        X.weight       [F, D], or [E, F, D] for the experts of a mixture
        X.scale        float32 [1] or [E], the scale of a whole tensor: of NVFP4, and also of other formats
        X.input_scale  float32 [1], with which some devices round their input before such a product; tfm
                       rounds no input here

    llama.cpp multiplies a product in this way. Raises CheckpointError for a scale of another type or
    shape.
    """

    def __init__(self, source: GgufSource) -> None:
        self.path, self.metadata = source.path, source.metadata
        present = set(source.names)
        own = OWN.get(str(source.metadata.get("general.architecture")), ())
        self._scales: dict[str, np.ndarray] = {}
        hidden: set[str] = set()
        for name in source.names:
            module, _, last = name.rpartition(".")
            weight = module + WEIGHT
            if f".{last}" not in (SCALE, INPUT_SCALE) or weight not in present:
                continue
            if f".{last}" == SCALE and module.endswith(own):
                continue
            shape = source.shape(weight)
            allowed = [(1,), shape[:1]] if len(shape) == 3 else [(1,)]
            if source.kind(name) != "F32" or source.shape(name) not in allowed:
                shapes = " or ".join(str(list(one)) for one in allowed)
                raise CheckpointError(
                    f"{source.path}: tensor {name!r} must be F32 {shapes}, but it is {source.kind(name)} "
                    f"{list(source.shape(name))}"
                )
            hidden.add(name)
            if f".{last}" == SCALE:
                self._scales[weight] = source.load(name)
        super().__init__({name: (source, name) for name in source.names if name not in hidden})

    def _scale(self, name: str, part: int | None) -> np.ndarray | None:
        """Return the scale of a tensor or of one part of it, [1]. The scale of a tensor with all experts is
        [E, 1, 1]. Returns None for a tensor without a scale.
        """
        scale = self._scales.get(name)
        if scale is None or len(scale) == 1:
            return scale
        return scale[:, None, None] if part is None else scale[part : part + 1]

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        weight, scale = super().load(name, part), self._scale(name, part)
        if scale is None:
            return weight
        with np.errstate(all="ignore"):  # whoever loads a weight checks that it is finite
            return weight * scale

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        blocks, scale = super().native(name, part), self._scale(name, part)
        if blocks is None or scale is None:
            return blocks
        with np.errstate(all="ignore"):
            minimum = None if blocks.minimum is None else blocks.minimum * scale
            return replace(blocks, scale=blocks.scale * scale, minimum=minimum)


OPS = ("xielu.",)


class LayerNumbers(Tensors):
    """A GGUF file whose metadata contains arrays of parameters of an op. The array of a key KEY has one
    number for each layer.

    The number KEY[i] becomes the tensor KEY.i, float32 [1]. The arrays are removed from the metadata:

        xielu.alpha_p, xielu.alpha_n, xielu.beta, xielu.eps    the curves of xIELU (Apertus)
    """

    def __init__(self, source: GgufSource) -> None:
        arrays = {
            key: value
            for key, value in source.metadata.items()
            if key.startswith(OPS) and isinstance(value, np.ndarray) and value.dtype == np.float32
        }
        self.path = source.path
        self.metadata = {key: value for key, value in source.metadata.items() if key not in arrays}
        super().__init__(joined([source, *(_Numbers(key, array) for key, array in arrays.items())]))


class _Numbers:
    """The numbers of an array as tensors KEY.0, KEY.1, … of one number each."""

    def __init__(self, key: str, array: np.ndarray) -> None:
        self._numbers = {f"{key}.{i}": array[i : i + 1] for i in range(len(array))}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._numbers)

    def kind(self, name: str) -> str:
        return "F32"

    def shape(self, name: str) -> tuple[int, ...]:
        return (1,)

    def load(self, name: str, part: int | None = None) -> np.ndarray:
        return self._numbers[name]

    def native(self, name: str, part: int | None = None) -> Blocks | None:
        return None

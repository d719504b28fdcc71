"""An adapter's tensors as peft writes them: low-rank updates of modules, and tensors that replace tensors of
the base model.

    base_model.model.MODULE.lora_A.weight              [r, in]
    base_model.model.MODULE.lora_B.weight              [out, r]
    base_model.model.MODULE.lora_embedding_A           [r, rows], for an embedding table
    base_model.model.MODULE.lora_embedding_B           [columns, r]
    base_model.model.MODULE.lora_magnitude_vector      [out], only with DoRA
    base_model.model.MODULE.weight, .bias              replaces the base's tensor (modules_to_save, bias)
    base_model.model.MODULE.base_layer.weight, .bias   replaces it too, if the module also has an update
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ....errors import CheckpointError
from ..dtypes import READABLE_INTEGERS
from ..safetensors import READABLE, SafeTensors
from ..torch_file import TorchFile

PREFIX = "base_model.model."
FLOATS = tuple(kind for kind in READABLE if kind not in READABLE_INTEGERS)
DOWN, UP, MAGNITUDE = "lora_A", "lora_B", "lora_magnitude_vector"
# How the name of an update's tensor ends, and what the tensor is.
PARTS = {
    ".lora_A.weight": DOWN,
    ".lora_B.weight": UP,
    ".lora_embedding_A": DOWN,
    ".lora_embedding_B": UP,
    ".lora_magnitude_vector": MAGNITUDE,
    ".lora_magnitude_vector.weight": MAGNITUDE,
}


@dataclass(frozen=True)
class LowRank:
    """The low-rank update of one module, as the names of its tensors.

    With `of_table` the module is an embedding table, and each row of the table counts as an input."""

    module: str
    down: str
    up: str
    magnitude: str | None
    of_table: bool


class AdapterTensors:
    """The tensors of an adapter. `updates` maps the names of modules to their low-rank updates. `replaced`
    maps the names of the base model's tensors to the names of the adapter's tensors that replace them.

    Raises CheckpointError for a tensor that is neither an update nor a replacement, for an incomplete update,
    or for shapes that contradict each other.
    """

    def __init__(self, file: SafeTensors | TorchFile) -> None:
        self._file = file
        self.replaced: dict[str, str] = {}
        self.of_base_layers: set[str] = set()
        parts: dict[str, dict[str, str]] = {}
        for name in file.names:
            if file.kind(name) not in FLOATS or not name.startswith(PREFIX):
                raise self._fail(name, f"a floating-point tensor, named {PREFIX}…")
            inner = name.removeprefix(PREFIX)
            ending = next((e for e in PARTS if inner.endswith(e)), None)
            if ending is None:
                self._replace(inner, name)
                continue
            module = inner.removesuffix(ending)
            if PARTS[ending] in parts.setdefault(module, {}):
                raise self._fail(name, f"the only {PARTS[ending]} tensor of its module")
            parts[module][PARTS[ending]] = name
        for name in [name for name in self.replaced if ".original_module." in f".{name}"]:
            # The module that a saved module replaces: peft's `bias` writes it too, and nothing reads it.
            if name.replace("original_module.", "") not in self.replaced:
                raise self._fail(self.replaced[name], "stored together with the module that replaces it")
            del self.replaced[name]
        self.updates = {module: self._update(module, found) for module, found in parts.items()}
        if not self.updates and not self.replaced:
            raise CheckpointError(f"{file.path}: an adapter must contain tensors, but it contains none")

    def _fail(self, name: str, must: str) -> CheckpointError:
        return CheckpointError(f"{self._file.path}: tensor {name!r:.120} must be {must}")

    def _replace(self, inner: str, name: str) -> None:
        module, _, leaf = inner.rpartition(".")
        if not module or "lora_" in inner:
            raise self._fail(name, "one of the two matrices of a LoRA update, or a whole weight")
        if of_base := module.endswith(".base_layer"):
            inner = f"{module.removesuffix('.base_layer')}.{leaf}"
        if inner in self.replaced:
            raise self._fail(name, "stored only once")
        self.replaced[inner] = name
        if of_base:
            self.of_base_layers.add(inner)

    def _update(self, module: str, parts: Mapping[str, str]) -> LowRank:
        if missing := [part for part in (DOWN, UP) if part not in parts]:
            raise self._fail(
                next(iter(parts.values())), f"stored together with the {missing[0]} tensor of the same module"
            )
        down, up = self._file.shape(parts[DOWN]), self._file.shape(parts[UP])
        if len(down) != 2 or len(up) != 2 or down[0] != up[1] or down[0] == 0:
            raise self._fail(parts[DOWN], f"[r, in], to match [out, r] of {parts[UP]!r}, got {down} and {up}")
        magnitude = parts.get(MAGNITUDE)
        if magnitude is not None and self._file.shape(magnitude) != up[:1]:
            raise self._fail(
                magnitude, f"[{up[0]}], with one number for each output, got {self._file.shape(magnitude)}"
            )
        of_table = [".lora_embedding_" in parts[part] for part in (DOWN, UP)]
        if of_table[0] != of_table[1]:
            raise self._fail(
                parts[UP], "an embedding's update (lora_embedding) like the other tensor of the same module"
            )
        return LowRank(module, parts[DOWN], parts[UP], magnitude, of_table[0])

    def kind(self, name: str) -> str:
        return self._file.kind(name)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._file.shape(name)

    def load(self, name: str) -> np.ndarray:
        """Return the tensor with this name as float32."""
        return self._file.load(name)

"""Merge an adapter into the weights of its base model, parameter by parameter, while the weights are read.

    W' = W + s B A                          (Hu et al. 2021, arXiv:2106.09685, equation 3)
    W' = m (W + s B A) / |W + s B A|        (DoRA, Liu et al. 2024, arXiv:2402.09353, equation 5)

W is [out, in], B is [out, r], A is [r, in], and m has one number for each output. The norm of an output is
taken over its inputs. The inputs of an embedding table are its rows, and its outputs are its columns, as in
peft.

**Conventions.** A and B have the checkpoint's form, the parameter has tfm's form. All steps between the two
forms (transposing, ungrouping heads, splitting a fused tensor) only reorder outputs. So B goes through these
steps like a weight with r inputs, and m like a weight with one input. Sums, products and the norm are
computed in float64, in slices of bounded size, and rounded once to float32. So merging loses at most half an
ulp.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ...ops.quant import Blocks
from ...params.parameter_shapes import ParameterShapes
from ..formats.adapters.tensors import AdapterTensors, LowRank
from .loader import Leaves, applied, check_finite
from .low_rank import merge
from .steps import Split, Step, Transpose

INPUT_TABLE, OUTPUT_TABLE = "embedding.table", "head.table"


@dataclass(frozen=True)
class Change:
    """An adapter's change to one parameter: another tensor replaces the parameter, an update is merged into
    it, or both.
    """

    steps: tuple[Step, ...]
    split: Split | None
    replacement: str | None = None
    update: LowRank | None = None
    scale: float = 1.0


class MergedLeaves:
    """The parameters of a base model with an adapter's changes. As with `Leaves`, each parameter is made when
    it is needed.

    If the base model shares one table between input and output, and the adapter changes the output table, the
    output table is a changed copy of the shared table.
    """

    def __init__(
        self, shapes: ParameterShapes, base: Leaves, tensors: AdapterTensors, changes: Mapping[str, Change]
    ) -> None:
        self.shapes = shapes
        self._base, self._tensors, self._changes = base, tensors, changes
        self.unused, self.left_out, self.notes = base.unused, base.left_out, base.notes

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.shapes)

    @property
    def changed(self) -> tuple[str, ...]:
        """The names of the parameters that the adapter changes."""
        return tuple(self._changes)

    def kind(self, name: str) -> str:
        """Return the type in which the file stores the parameter: F32, BF16, Q4_1, …"""
        change = self._changes.get(name)
        if change is not None and change.replacement is not None:
            return self._tensors.kind(change.replacement)
        return self._base.kind(self._of_base(name))

    def _of_base(self, name: str) -> str:
        """Return the name of the base model's parameter from which a parameter is made. An output table that
        the base model doesn't have is made from the input table.
        """
        return INPUT_TABLE if name == OUTPUT_TABLE and name not in self._base.names else name

    def native(self, name: str) -> Blocks | None:
        """Return the parameter in the blocks that the file stores, or None if the file stores it without
        blocks or the adapter changes it.
        """
        return None if name in self._changes else self._base.native(self._of_base(name))

    def load(self, name: str) -> np.ndarray:
        """Return the parameter as float32 in tfm's orientation. Raises NumericError if the parameter isn't
        finite.
        """
        change = self._changes.get(name)
        if change is None or change.replacement is None:
            weight = self._base.load(self._of_base(name))
        else:
            weight = applied(change.steps, change.split, self._tensors.load(change.replacement))
        if change is not None and change.update is not None:
            weight = self._merged(name, weight, change, change.update)
        check_finite(name, weight)
        return weight

    def _merged(self, name: str, weight: np.ndarray, change: Change, update: LowRank) -> np.ndarray:
        # The outputs are a leaf's last axis, but for the table of a language model's output.
        axis = 0 if name == OUTPUT_TABLE else 1

        def in_our_order(outputs: np.ndarray) -> np.ndarray:
            """Reorder the rows of `outputs` [out, n] from the checkpoint's order of outputs to the
            parameter's order.

            The result has only the rows for the outputs of this parameter.
            """
            transposes = sum(isinstance(step, Transpose) for step in change.steps)
            stored = outputs if (axis + transposes) % 2 == 0 else outputs.T
            leaf = applied(change.steps, change.split, stored)
            return leaf if axis == 0 else leaf.T

        magnitude = None
        if update.magnitude is not None:
            magnitude = in_our_order(self._tensors.load(update.magnitude)[:, None])[:, 0]
        merged = merge(
            weight if axis == 0 else weight.T,
            self._tensors.load(update.down),
            in_our_order(self._tensors.load(update.up)),
            change.scale,
            magnitude,
        )
        return merged if axis == 0 else merged.T

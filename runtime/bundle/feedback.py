"""Measure the inputs of a model's matrices over the calibration text, for rounding with feedback.

Rounding with feedback (`refimpl.calibrate.coordinate_descent`) needs Σ xᵀx over the inputs x of a matrix.
Both an export and `verify` compute these sums here from the unquantized model, layer by layer. So memory
holds the sums and weights of only one layer at a time, and the vectors of the text.

Two processors may round these sums differently. Then a number halfway between two codes may get the other
code, and the new error changes all other codes. So `verify` doesn't compute the codes again and compare them.
Instead, it requires that each code is near the best number for its place, given all other codes (`SLACK`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...refimpl.calibrate.coordinate_descent import Hessian, damped, distance, hessian
from ...refimpl.calibrate.least_error import is_as_good
from ...refimpl.checkpoint.protocol import WeightSource
from ...refimpl.engine.passes import Pass, SideBySide, Text, given
from ...refimpl.ops.dispatch import body, use
from ...refimpl.ops.linear import linear
from ...refimpl.ops.quant import Blocks
from .weight_formats import WeightFormat, is_table

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

ROWS = 8  # of the text that are computed together
# Of a step, beyond its half: how far the number to be rounded may be another one on another processor.
SLACK = 0.002


class Inputs(NamedTuple):
    """The statistics of a matrix's inputs x that rounding uses: their damped mean squares, and their damped Σ
    xᵀx.
    """

    importance: Float[Array, " D"]
    total: Float[Array, "D D"]


# Called after each layer with the inputs of its matrices, how many layers are done, and how many there are.
OnInputs = Callable[[Mapping[str, Inputs], int, int], None]


def compensated(formats: Mapping[str, WeightFormat]) -> frozenset[str]:
    """Return the parameters that are rounded with feedback: their codes may compensate each other's errors.

    These are the matrices in 4 bits, except matrices that keep the blocks of the checkpoint's file.
    """
    return frozenset(name for name, one in formats.items() if one.searched and not is_table(name))


def measure(
    source: WeightSource, text: Int[Array, "R T"], names: Collection[str], on_layer: OnInputs
) -> None:
    """Run the model over the rows of a text, and call `on_layer` with the inputs of the named parameters."""
    config = source.config
    together = SideBySide(config, lambda function, numbers: [function(i) for i in numbers])
    called: dict[int, str] = {}  # id of a leaf -> its name, while an op runs
    sums: dict[tuple[str, ...], Hessian] = {}

    def loaded(name: str) -> Array:
        leaf = together.once(name, lambda: source.leaf(name))
        called[id(leaf)] = name
        return leaf

    @contextmanager
    def recording() -> Iterator[None]:
        read: list[tuple[Array, list[str]]] = []

        def recorded(x: Array, weight: Array, bias: Array | None = None) -> Array:
            name = called.get(id(weight), "")
            if name in names:
                if not read or read[-1][0] is not x:
                    read.append((x, []))
                read[-1][1].append(name)
            return body(linear)(x, weight, bias)

        # Nobody reads the logits.
        with use({"linear": recorded, "lm_logits": lambda x, *_, **__: x}):
            yield
        for x, users in read:
            sums[tuple(users)] = hessian(sums.get(tuple(users)), x.reshape(-1, x.shape[-1]))
        called.clear()

    def report(done: int, total: int) -> None:
        found: dict[str, Inputs] = {}
        for users, h in sums.items():
            summed = damped(h)
            found |= dict.fromkeys(users, Inputs(np.diag(summed) / h.inputs, summed))
        sums.clear()
        on_layer(found, done, total)

    def one_pass(rows: Array) -> Pass:
        lengths = np.full(len(rows), rows.shape[1])
        return Pass(given(Text(rows, lengths), np.dtype(np.float32), config=config), loaded, recording)

    together.run([one_pass(text[i : i + ROWS]) for i in range(0, len(text), ROWS)], report)
    if sums:  # of products behind the last layer
        layers = sum(len(stack.layers) for stack in config.stacks.values())
        report(layers, layers)


def is_possible(
    weight: Float[Array, "D F"], blocks: Blocks, inputs: Inputs, weight_format: WeightFormat
) -> bool:
    """Return whether the scales give the least error, and each code is near the number that it rounds."""
    as_good = is_as_good(
        weight, blocks, inputs.importance, symmetric=weight_format.symmetric, halves=weight_format.halves
    )
    return as_good and distance(weight, inputs.total, blocks) <= 0.5 + SLACK

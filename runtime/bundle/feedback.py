"""Measure the inputs of a model's matrices over the calibration text, for rounding with feedback.

Rounding with feedback (`refimpl.calibrate.coordinate_descent`) needs Σ xᵀx over the inputs x of a matrix.
Both an export and `verify` compute these sums here from the unquantized model, one layer after the other.
So memory holds the sums and weights of only one layer at a time, and the vectors of the text.

Two processors may round these sums differently. Then a number halfway between two codes may get the other
code, and the new error changes all later codes. So `verify` doesn't compute the codes again to compare
them. Instead, it requires that each code and each scale is near the best value for its place, given all
other codes and scales. The tolerances are `SLACK` for codes and twice the `SCALE_MARGIN` of coordinate
descent for scales.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...refimpl.calibrate.coordinate_descent import (
    SCALE_MARGIN,
    Hessian,
    coordinate_descent,
    damped,
    distance,
    hessian,
    output_error,
)
from ...refimpl.calibrate.least_error import is_as_good
from ...refimpl.checkpoint.protocol import WeightSource
from ...refimpl.engine.passes import Pass, SideBySide, Text, given
from ...refimpl.ops import quant
from ...refimpl.ops.dispatch import body, use
from ...refimpl.ops.embedding import unembedding
from ...refimpl.ops.linear import linear
from ...refimpl.ops.quant import Blocks
from . import rounding
from .weight_formats import WeightFormat

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy import ndarray as Array

ROWS = 8  # of the text that are computed together
# Of a step, beyond its half: how far the number to be rounded may be another one on another processor.
SLACK = 0.002


class Inputs(NamedTuple):
    """Statistics of a matrix's inputs x: their mean squares, and the sum Σ xᵀx. Both are damped, which means
    that a part of the mean is added to the diagonal.
    """

    importance: Float[Array, " D"]
    total: Float[Array, "D D"]


# Called after each layer with the inputs of its matrices, how many layers are done, and how many there are.
OnInputs = Callable[[Mapping[str, Inputs], int, int], None]


def compensated(formats: Mapping[str, WeightFormat]) -> frozenset[str]:
    """Return the names of the parameters that are rounded with feedback, so that their codes compensate each
    other's errors.

    These are all matrices and tables in fewer than 8 bits that don't keep the blocks of the checkpoint's
    file. A table that the model only looks up has no inputs, so `measure` returns no statistics for it.
    """
    return frozenset(name for name, one in formats.items() if one.searched)


def measure(
    source: WeightSource, text: Int[Array, "R T"], names: Collection[str], on_layer: OnInputs
) -> None:
    """Run the model over the rows of a text, and report the inputs of the named parameters after each layer.

    `on_layer(inputs, done, total)` gets a dict from parameter name to `Inputs`, the number of finished
    layers and the number of all layers.
    """
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

        def note(x: Array, weight: Array) -> None:
            name = called.get(id(weight), "")
            if name in names:
                if not read or read[-1][0] is not x:
                    read.append((x, []))
                read[-1][1].append(name)

        def product(x: Array, weight: Array, bias: Array | None = None) -> Array:
            note(x, weight)
            return body(linear)(x, weight, bias)

        def table_product(x: Array, table: Array) -> Array:
            note(x, table)
            return body(unembedding)(x, table)

        def logits(x: Array, table: Array, *_: Any, **__: Any) -> Array:
            note(x, table)
            return x  # nobody reads the logits

        with use({"linear": product, "unembedding": table_product, "lm_logits": logits}):
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


def compensating(weight: Array, blocks: Blocks, inputs: Inputs, weight_format: WeightFormat) -> Blocks:
    """Round a weight so that its codes and scales compensate each other's errors. The zero points of `blocks`
    are kept.

    The weight is a matrix [D, F] or a table [N, D], and `blocks` is the result of `rounding.rounded` for
    it.
    """
    by_input, narrow = _by_input(weight, blocks, weight_format)
    made = coordinate_descent(by_input, inputs.total, narrow, halves=weight_format.halves)
    return rounding.widened(made if blocks.axis == 0 else quant.transpose(made), weight_format)


def error(weight: Array, blocks: Blocks, inputs: Inputs, weight_format: WeightFormat) -> float:
    """Return the squared error that rounding a weight adds to the outputs of its product: tr(Eᵀ H E).

    E is the error of the weight, and H is the damped sum Σ xᵀx of its inputs.
    """
    return output_error(*_by_input(weight, blocks, weight_format), Hessian(inputs.total, 1))


def is_possible(weight: Array, blocks: Blocks, inputs: Inputs, weight_format: WeightFormat) -> bool:
    """Return whether rounding with feedback can have given these blocks for a weight.

    The zero points must give the least error, and each code and each scale must be near the value that it
    rounds.
    """
    weight, blocks = _by_input(weight, blocks, weight_format)
    symmetric, halves = weight_format.symmetric, weight_format.halves
    as_good = is_as_good(weight, blocks, inputs.importance, symmetric=symmetric, halves=halves)
    codes, scales = distance(weight, inputs.total, blocks, halves=halves)
    return as_good and codes <= 0.5 + SLACK and scales <= 2 * SCALE_MARGIN


def _by_input(weight: Array, blocks: Blocks, weight_format: WeightFormat) -> tuple[Array, Blocks]:
    """Return a weight and its blocks with the inputs along axis 0. The codes have as many bits as the
    format's `code_bits`.
    """
    blocks = rounding.narrowed(blocks, weight_format)
    return (weight, blocks) if blocks.axis == 0 else (weight.T, quant.transpose(blocks))

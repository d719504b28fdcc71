"""Check that the bundle's weights are exactly the specification's and the source's.

The specification's weights are compared by their digests in the golden arrays. The source's weights are
quantized again and compared with the bundle's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ....refimpl.calibrate import least_error, smooth
from ....refimpl.checkpoint.protocol import WeightSource
from ....refimpl.ops import quant
from ....refimpl.ops.quant import Blocks
from ...bundle import feedback, rounding
from ...bundle.bundle import Bundle
from ...bundle.weight_formats import WeightFormat
from ..leaf_digest import digest
from ..report import NOT_REACHED, Row
from .context import VerifyContext

if TYPE_CHECKING:
    from numpy import ndarray as Array


def check_digests(context: VerifyContext) -> Iterator[Row]:
    """Check that the bundle's weights have the same digests as the weights from which the golden outputs were
    computed.
    """
    row_name = "weights equal the specification's"
    names = list(context.bundle.plan.shapes)
    dtype = np.dtype(context.bundle.dtype)
    different: list[str] = []
    for done, (name, expected) in enumerate(zip(names, context.golden.digests, strict=True)):
        if context.out_of_time():
            yield Row(row_name, done, unit="weights", of=len(names), missing=NOT_REACHED)
            return
        leaf = context.bundle.leaf(name)
        if digest(leaf, dtype) != expected.tobytes():
            different.append(name)
    yield _count(row_name, len(names), different)


def compare_weights(context: VerifyContext, row_name: str, source: WeightSource) -> Iterator[Row]:
    """Check that the source's weights, smoothed and quantized again, equal the bundle's weights."""
    bundle = context.bundle
    # Of the source's config: the scales of a quantized cache may come from a text and not from the source.
    names = list(source.shapes)
    different: list[str] = []
    factors = _smoothing_factors(source, bundle)
    text, possible = context.golden.rounding, dict[str, bool]()
    if text is not None:

        def layer_read(found: Mapping[str, feedback.Inputs], *_: int) -> None:
            for name, inputs in found.items():
                leaf, stated = bundle.leaf(name), bundle.manifest.schemes[name]
                possible[name] = isinstance(leaf, Blocks) and feedback.is_possible(
                    source.leaf(name), leaf, inputs, stated
                )
            if context.is_over(len(possible), len(names)):
                raise TimeoutError

        try:
            feedback.measure(source, text, feedback.compensated(bundle.manifest.schemes), layer_read)
        except TimeoutError:
            yield Row(row_name, len(possible), unit="weights", of=len(names), missing=NOT_REACHED)
            return
    different += [name for name, ok in possible.items() if not ok]
    for done, name in enumerate([name for name in names if name not in possible], len(possible)):
        if context.is_over(done, len(names)):
            yield Row(row_name, done, unit="weights", of=len(names), missing=NOT_REACHED)
            return
        weight = smooth.smooth_leaf(name, source.leaf(name), factors)
        if not _equals_source(source, name, weight, bundle.manifest.schemes.get(name), bundle.leaf(name)):
            different.append(name)
    yield _count(row_name, len(names), different)


def _count(row_name: str, total: int, different: list[str]) -> Row:
    """Return a row that counts how many parameters are equal, and names the first different ones."""
    note = f"different: {', '.join(different[:3])}" if different else ""
    equal = total - len(different)
    return Row(row_name, equal, unit="weights", ok=not different, note=note, of=total)


def _smoothing_factors(source: WeightSource, bundle: Bundle) -> dict[smooth.SmoothingSite, Array]:
    """Return the factors by which the bundle's activations are smoothed, found by comparing the bundle with
    the source.

    If a product divides its own input, the bundle stores the factors beside the product's weight. Otherwise
    the parameters that make the input were divided by the factors, which are powers of two. Then a factor is
    the source's number divided by the bundle's.
    """
    factors: dict[smooth.SmoothingSite, Array] = {}
    plan = replace(bundle.plan, shapes=source.shapes)
    for site in plan.divided:
        for name in site.consumers:
            leaf = bundle.leaf(name)
            if isinstance(leaf, Blocks) and leaf.input_factor is not None:
                factors[smooth.SmoothingSite((), (name,))] = 1 / leaf.input_factor
    for site in plan.smoothable:
        factor = np.ones(plan.shapes[site.producers[0]][-1], np.float32)
        for name in site.producers:
            before = smooth.smooth_leaf(name, source.leaf(name), factors)
            after = bundle.leaf(name)
            if isinstance(after, Blocks):  # then scales are divided as the weights are
                blocks = rounding.rounded(before, plan.formats[name], axis=after.axis)
                before = np.abs(blocks.scale).max(axis=0)
                after = np.abs(after.scale).max(axis=0)
            elif after.size != factor.size:  # a matrix that stays in floats: its columns are divided
                before, after = np.abs(before).max(axis=0), np.abs(after).max(axis=0)
            before, after = before.astype(after.dtype).ravel(), after.ravel()
            ratio = np.divide(before, after, out=np.zeros_like(factor), where=after != 0)
            is_power_of_two = np.frexp(ratio)[0] == 0.5
            factor = np.where(is_power_of_two, ratio, factor)
        factors[site] = factor
    return factors


def _equals_source(
    source: WeightSource, name: str, weight: Array, weight_format: WeightFormat | None, leaf: Array | Blocks
) -> bool:
    """Return whether the bundle's parameter `leaf` equals the source's `weight` in this format."""
    if weight_format is None or not isinstance(leaf, Blocks):
        return not isinstance(leaf, Blocks) and np.array_equal(weight.astype(leaf.dtype), leaf)
    if weight_format.searched:
        # The importances that scales were searched with aren't in the bundle: any that give these blocks do.
        symmetric, halves = weight_format.symmetric, weight_format.halves
        leaf = rounding.narrowed(leaf, weight_format)
        if leaf.axis == 1:
            weight, leaf = weight.T, quant.transpose(leaf)
        return least_error.is_possible(weight, leaf, symmetric=symmetric, halves=halves)
    if weight_format.native:
        blocks = source.native(name)
        expected = None if blocks is None else rounding.centered(blocks)
    else:
        expected = rounding.rounded(weight, weight_format, axis=leaf.axis)
    return expected is not None and all(
        _equal(getattr(expected, part), getattr(leaf, part)) for part in ("codes", "scale", "zero", "minimum")
    )


def _equal(expected: Array | None, part: Array | None) -> bool:
    """Return whether two parts of blocks are equal in the bundle's type. Two absent parts are equal."""
    if expected is None or part is None:
        return expected is part
    return np.array_equal(expected.astype(part.dtype), part)

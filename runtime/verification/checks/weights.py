"""The bundle's weights are the specification's and the source's, to the integer.

The specification's are known by their digests among the golden outputs; the source's are quantized
here again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ....refimpl.calibrate import least_error, smooth
from ....refimpl.checkpoint.open import Checkpoint
from ....refimpl.errors import NumericError
from ....refimpl.ops import quant
from ....refimpl.ops.quant import Blocks
from ....refimpl.params import shapes as trees
from ...bundle import rounding
from ...bundle.bundle import Bundle
from ...bundle.weight_formats import WeightFormat
from ..golden import digest
from ..report import Row
from .context import VerifyContext

if TYPE_CHECKING:
    from numpy import ndarray as Array


def weights(climb: VerifyContext) -> Iterator[Row]:
    """The weights, restored from the file, are the quantized specification's, to the integer."""
    names = list(trees.shapes(climb.bundle.config))
    dtype = np.dtype(climb.bundle.dtype)
    wrong: list[str] = []
    for done, (name, wanted) in enumerate(zip(names, climb.golden.digests, strict=True)):
        if climb.late():
            yield Row("weights equal the specification's", done, unit="leaves", note="out of time")
            return
        leaf = climb.bundle.leaf(name)
        _finite(name, leaf)
        if digest(leaf, dtype) != wanted.tobytes():
            wrong.append(name)
    yield _equal("weights equal the specification's", len(names), wrong)


def _finite(name: str, leaf: Array | Blocks) -> None:
    for part in (leaf.scale, leaf.minimum) if isinstance(leaf, Blocks) else (leaf,):
        if part is not None and not np.isfinite(part).all():
            raise NumericError(f"{name} must be finite, it holds NaN or infinity: export the model again")


def _equal(name: str, total: int, wrong: list[str]) -> Row:
    note = f"different: {', '.join(wrong[:3])}" if wrong else ""
    return Row(name, total - len(wrong), total, "leaves", not wrong, note)


def source(climb: VerifyContext) -> Iterator[Row]:
    """The weights are those of the source: quantized here again by the specification."""
    bundle, origin = climb.bundle, climb.source
    if origin is None:
        yield Row("weights equal the source's", note="no --source given")
        return
    names = list(trees.shapes(origin.config))  # a cache's scales come from a text, if not from the source
    wrong: list[str] = []
    factors = _factors(origin, bundle)
    for done, name in enumerate(names):
        if climb.late():
            yield Row("weights equal the source's", done, unit="leaves", note="out of time")
            return
        weight = smooth.apply(name, origin.leaf(name), factors)
        if not _from_source(origin, name, weight, bundle.manifest.schemes.get(name), bundle.leaf(name)):
            wrong.append(name)
    yield _equal("weights equal the source's", len(names), wrong)


def _factors(origin: Checkpoint, bundle: Bundle) -> dict[smooth.SmoothingSite, Array]:
    """The factors that smoothing used, as products hold them or read off the leaves that it divided: powers
    of two, or none.

    Places are smoothed for 8-bit codes only, and where no leaf is a file's own.
    """
    found: dict[smooth.SmoothingSite, Array] = {}
    schemes = bundle.manifest.schemes
    for place in smooth.streams(origin.config):
        for name in place.read:
            held = bundle.leaf(name) if name in schemes else None
            if isinstance(held, Blocks) and held.input_factor is not None:
                found[smooth.SmoothingSite((), (name,))] = 1 / held.input_factor
    for place in smooth.places(origin.config):
        read = [schemes[name] for name in (*place.made, *place.read) if name in schemes]
        if not read or any(scheme.native or scheme.bits != 8 for scheme in read):
            continue
        s = np.ones(trees.shapes(bundle.config)[place.made[0]][-1], np.float32)
        for name in place.made:
            was, now = smooth.apply(name, origin.leaf(name), found), bundle.leaf(name)
            if isinstance(now, Blocks):
                was, now = (
                    rounding.rounded(was, schemes[name], axis=now.axis).scale,
                    np.abs(now.scale).max(axis=0),
                )
                was = np.abs(was).max(axis=0)
            was, now = was.astype(now.dtype).ravel(), now.ravel()
            ratio = np.divide(was, now, out=np.zeros_like(s), where=now != 0)
            s = np.where(np.frexp(ratio)[0] == 0.5, ratio, s)
        found[place] = s
    return found


def _from_source(
    origin: Checkpoint, name: str, weight: Array, weight_format: WeightFormat | None, held: Array | Blocks
) -> bool:
    if weight_format is None or not isinstance(held, Blocks):
        return not isinstance(held, Blocks) and np.array_equal(weight.astype(held.dtype), held)
    if weight_format.native:
        own = origin.native(name)
        wanted = None if own is None else rounding.centered(own)
    elif weight_format.searched:
        columns = weight.T if held.axis == 1 else weight
        return least_error.could_be(columns, quant.transpose(held) if held.axis == 1 else held)
    else:
        wanted = rounding.rounded(weight, weight_format, axis=held.axis)
    if wanted is None:
        return False
    for part in ("codes", "scale", "zero", "minimum"):
        a, b = getattr(wanted, part), getattr(held, part)
        if (a is None) != (b is None) or (a is not None and not np.array_equal(a.astype(b.dtype), b)):
            return False
    return True

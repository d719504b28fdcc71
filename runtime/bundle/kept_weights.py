"""Describe how a bundle stores a checkpoint's weights: in the file's own blocks, widened without loss, or
rounded.
"""

from __future__ import annotations

import math
from typing import Any

from . import weight_storage
from .manifest import Manifest
from .weight_formats import WeightFormat, is_widened


def described(weight_format: WeightFormat | None, dtype: str) -> str:
    """Describe how a weight is stored and how it got this form, for example "Q5_0 widened to 8-bit blocks of
    32". A weight without a format is described by the float type `dtype`.
    """
    if weight_format is None:
        return dtype
    bits, source = weight_format.bits, weight_format.source
    blocks = f"{weight_format.code_bits or bits}-bit blocks of {weight_format.block}"
    form = f"{bits} bits a column" if weight_format.by_column else blocks
    if not weight_format.native:
        return f"{source} rounded to {form}".lstrip()
    return f"{source} {'widened to' if is_widened(bits, source) else 'kept in'} {form}".lstrip()


def by_weight(manifest: Manifest) -> dict[str, str]:
    """Return a dict from the name of each parameter to a description of its stored form (`described`)."""
    return {name: described(manifest.schemes.get(name), manifest.dtype) for name in manifest.plan.shapes}


def chosen_formats(manifest: Manifest) -> dict[str, Any]:
    """Describe the formats that a budget chose for an `auto` bundle.

    The dict contains the budget, the model's loss with all chosen formats, the number of tokens of the
    measurement, and the format, bytes and loss of each unit. A unit is a set of weights that must have the
    same format.
    """
    chosen, plan = manifest.chosen, manifest.plan
    assert chosen is not None
    units = {}
    for name, leaves in plan.units.items():
        forms = dict.fromkeys(described(plan.formats[leaf], plan.dtype) for leaf in leaves)
        stored = plan.read_bytes(leaves, manifest.forms)
        units[name] = {"format": ", ".join(forms), "bytes": stored, "loss": chosen.losses[name]}
    return {"budget": chosen.budget, "loss": chosen.measured, "tokens": chosen.tokens, "units": units}


def totals(manifest: Manifest) -> dict[str, tuple[int, int]]:
    """Count the weights in each stored form, and their bytes.

    Returns a dict from the description of a form to (number of weights, bytes). The form with the most
    bytes comes first.
    """
    forms = by_weight(manifest)
    by_form: dict[str, tuple[int, int]] = {}
    for group in manifest.plan.groups.values():
        names = weight_storage.specs(group, manifest.dtype)
        stored = sum(manifest.tensors[name].length for name in names)
        for leaf, shape in zip(group.leaves, group.shapes, strict=True):
            count, size = by_form.get(forms[leaf], (0, 0))
            by_form[forms[leaf]] = count + 1, size + stored * math.prod(shape) // math.prod(group.shape)
    return dict(sorted(by_form.items(), key=lambda item: -item[1][1]))

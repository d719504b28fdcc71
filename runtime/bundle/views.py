"""Stored tensors that a graph reads in another shape. This is part of the format.

An initializer named X.AxBxC has the bytes of the stored tensor X, in the shape [A, B, C]. A graph may have it
beside X, or in place of X. One reason is that a table for both look-ups and products needs two shapes.
Another reason is that many runtimes accept the blocks of a product only from an initializer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from .plan import Tensor

SHAPED = re.compile(r"(.+)\.(\d{1,15}(?:x\d{1,15})*)", re.DOTALL)


def view_name(name: str, shape: tuple[int, ...]) -> str:
    """Return the initializer's name for a stored tensor in another shape."""
    return f"{name}.{'x'.join(map(str, shape))}"


def stored_name(name: str, tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the stored tensor whose bytes an initializer uses, or None if it uses no stored
    tensor's bytes.
    """
    if name in tensors:
        return name
    match = SHAPED.fullmatch(name)
    return match[1] if match is not None and match[1] in tensors else None


def place(name: str, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return the place of an initializer's bytes and its shape, or None for an initializer that isn't stored.

    The result is also None if the shape in the name and the stored tensor have different numbers of elements.
    """
    if (base := stored_name(name, tensors)) in (name, None):
        return tensors.get(name)
    shape = tuple(map(int, name[len(base) + 1 :].split("x")))
    stored = tensors[base]
    return replace(stored, shape=shape) if math.prod(shape) == math.prod(stored.shape) else None

"""Name the initializers that read a stored tensor in another shape. This is part of the format.

An initializer named X.AxBxC reads the bytes of the stored tensor X in the shape [A, B, C]. A graph may
contain this initializer beside X, or instead of X. One reason is that a table for both look-ups and
products needs two shapes. Another reason is that many runtimes accept the blocks of a product only from an
initializer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from .plan import Tensor

SHAPED = re.compile(r"(.+)\.(\d{1,15}(?:x\d{1,15})*)", re.DOTALL)


def view_name(name: str, shape: tuple[int, ...]) -> str:
    """Return the name of the initializer that reads the stored tensor `name` in this shape."""
    return f"{name}.{'x'.join(map(str, shape))}"


def stored_name(name: str, tensors: Mapping[str, Tensor]) -> str | None:
    """Return the name of the stored tensor that an initializer reads; None if it reads no stored tensor."""
    if name in tensors:
        return name
    match = SHAPED.fullmatch(name)
    return match[1] if match is not None and match[1] in tensors else None


def place(name: str, tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return the place of an initializer's bytes, and its type and shape. Returns None if it reads no stored
    tensor.

    The result is also None if the shape in the initializer's name and the stored tensor have different
    numbers of elements.
    """
    if (base := stored_name(name, tensors)) in (name, None):
        return tensors.get(name)
    shape = tuple(map(int, name[len(base) + 1 :].split("x")))
    stored = tensors[base]
    return replace(stored, shape=shape) if math.prod(shape) == math.prod(stored.shape) else None

"""Read the parameters of a TypedDict of weights from its annotations, such as `Float[Array, "D H*K"] |
Blocks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from math import prod
from types import MappingProxyType
from typing import NamedTuple

SHAPE = re.compile(
    r"Float\[Array, '([^']*)'\]"
)  # as Python itself writes an annotation that it keeps as text
Shape = tuple[int, ...]
Axis = tuple[tuple[str, ...], ...]  # a sum of products of letters and numbers


class Leaf(NamedTuple):
    """One parameter: its shape, and whether it may be quantized. An annotation with `Blocks` says that it
    may.

    Matrices of products and tables of tokens may be quantized. Other parameters stay in floating point,
    for one of these reasons: they are added, they multiply single channels, they choose or weigh the
    results of other parameters, or their errors add up over a whole text.
    """

    shape: Shape
    multiplied: bool = False


Leaves = dict[str, Leaf]


def annotated(
    weights: type,
    sizes: Mapping[str, float],
    optional: Collection[str] = (),
    form: Callable[[str], int] = lambda leaf: 0,
    inner: Mapping[str, Leaves] = MappingProxyType({}),
) -> Leaves:
    """Return the parameters of a TypedDict, in the order of its annotations: all required parameters, and
    the optional ones that `optional` names.

    `sizes` gives the size of each axis letter. If an annotation allows several shapes, `form` says which
    one a parameter has. An annotation may be a structure instead of a single parameter; `inner` contains
    the parameters of such a structure.
    """
    found: Leaves = {}
    for leaf, (required, multiplied, shapes) in _read(weights).items():
        if shapes and (required or leaf in optional):
            found[leaf] = Leaf(_size(shapes[form(leaf)], sizes), multiplied)
        found |= {f"{leaf}.{name}": one for name, one in inner.get(leaf, {}).items()}
    return found


@cache
def _read(weights: type) -> dict[str, tuple[bool, bool, tuple[tuple[Axis, ...], ...]]]:
    """Return for each parameter's name whether it is required, whether it may be `Blocks`, and its
    possible shapes.
    """
    texts = {leaf: getattr(hint, "__forward_arg__", hint) for leaf, hint in weights.__annotations__.items()}
    return {
        leaf: ("NotRequired" not in text, "Blocks" in text, tuple(map(_shape, SHAPE.findall(text))))
        for leaf, text in texts.items()
    }


def _shape(text: str) -> tuple[Axis, ...]:
    return tuple(tuple(tuple(term.split("*")) for term in axis.split("+")) for axis in text.split())


def _size(shape: tuple[Axis, ...], sizes: Mapping[str, float]) -> Shape:
    def value(factor: str) -> float:
        return int(factor) if factor.isdigit() else sizes[factor]

    return tuple(int(sum(prod(map(value, term)) for term in axis)) for axis in shape)

"""The shapes of leaves, read from the annotations of their TypedDict: `Float[Array, "D H*K"]`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from math import prod
from types import MappingProxyType

SHAPE = re.compile(
    r"Float\[Array, '([^']*)'\]"
)  # as Python itself writes an annotation that it keeps as text
Shapes = dict[str, tuple[int, ...]]
Axis = tuple[tuple[str, ...], ...]  # a sum of products of letters and numbers


def annotated(
    weights: type,
    sizes: Mapping[str, float],
    optional: Collection[str] = (),
    form: Callable[[str], int] = lambda leaf: 0,
    inner: Mapping[str, Shapes] = MappingProxyType({}),
) -> Shapes:
    """Leaf -> shape, in the order of the annotations: all required leaves, and these `optional` ones.

    `sizes` are those of letters. `form` says of a leaf with several shapes which one it has. `inner` are the
    leaves of what isn't a leaf itself.
    """
    found: Shapes = {}
    for leaf, (required, shapes) in _read(weights).items():
        if shapes and (required or leaf in optional):
            found[leaf] = _size(shapes[form(leaf)], sizes)
        found |= {f"{leaf}.{name}": shape for name, shape in inner.get(leaf, {}).items()}
    return found


@cache
def _read(weights: type) -> dict[str, tuple[bool, tuple[tuple[Axis, ...], ...]]]:
    """Leaf -> whether it is always there, and its shapes."""
    texts = {leaf: getattr(hint, "__forward_arg__", hint) for leaf, hint in weights.__annotations__.items()}
    return {
        leaf: ("NotRequired" not in text, tuple(_shape(one) for one in SHAPE.findall(text)))
        for leaf, text in texts.items()
    }


def _shape(text: str) -> tuple[Axis, ...]:
    return tuple(tuple(tuple(term.split("*")) for term in axis.split("+")) for axis in text.split())


def _size(shape: tuple[Axis, ...], sizes: Mapping[str, float]) -> tuple[int, ...]:
    def value(factor: str) -> float:
        return int(factor) if factor.isdigit() else sizes[factor]

    return tuple(int(sum(prod(map(value, term)) for term in axis)) for axis in shape)

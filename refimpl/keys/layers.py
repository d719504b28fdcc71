"""Layers that aren't alike, as config.json states them: which see a window only, which have experts."""

from __future__ import annotations

from collections.abc import Callable

from ..config import Full, Window
from . import Keys

KINDS = ("full_attention", "sliding_attention")


def count(keys: Keys) -> int:
    """The number of layers; one that no Config allows stays too large, but small enough to be built."""
    return min(keys.size("num_hidden_layers"), 2**16)


def layer_types(keys: Keys, slides: Callable[[int], bool]) -> list[str]:
    """The type of each layer; `slides` is the family's default for layer i, counted from 0."""
    layers, given = count(keys), keys.get("layer_types", list, None)
    if given is None:
        return [KINDS[slides(i)] for i in range(layers)]
    if len(given) != layers or any(kind not in KINDS for kind in given):
        raise keys.fail("layer_types", f"a list of {layers}, each one of {', '.join(KINDS)}")
    return given


def patterns(keys: Keys, types: list[str], default: int | None) -> list[Full | Window]:
    """What each layer sees, by its type; `default` is the family's sliding_window."""
    size = keys.get("sliding_window", int, default, null=True)
    if "sliding_attention" in types:
        if size is None or size < 1:
            raise keys.fail("sliding_window", "at least 1 where layers slide")
        return [Window(size) if kind == "sliding_attention" else Full() for kind in types]
    return [Full()] * len(types)

"""Layers in config.json: their number, the size of their heads, and which see only a window."""

from __future__ import annotations

from collections.abc import Callable

from ..config import FullAttention, Window
from .keys import Keys

KINDS = ("full_attention", "sliding_attention")


def count(keys: Keys, key: str = "num_hidden_layers", default: int | None = None) -> int:
    """The number of layers. An absurd one is cut to a number that Config refuses, so building it is cheap."""
    return min(keys.size(key) if default is None else keys.size(key, None) or default, 2**16)


def head_size(keys: Keys, width: str = "hidden_size", heads: str = "num_attention_heads") -> int:
    """The size of a head, the width divided by the number of heads; `width` and `heads` name the keys."""
    whole, parts = keys.size(width), keys.size(heads)
    if whole % parts:
        raise keys.fail(width, f"a multiple of {heads}, {parts!r:.40}")
    return whole // parts


def layer_types(keys: Keys, slides: Callable[[int], bool]) -> list[str]:
    """The type of each layer; `slides` is the family's default for layer i, counted from 0."""
    layers, given = count(keys), keys.get("layer_types", list, None)
    if given is None:
        return [KINDS[slides(i)] for i in range(layers)]
    if len(given) != layers or any(kind not in KINDS for kind in given):
        raise keys.fail("layer_types", f"a list of {layers}, each one of {', '.join(KINDS)}")
    return given


def read_window(keys: Keys, default: int | None = None) -> int | None:
    """How many tokens all layers see, None for all of them."""
    return keys.size("sliding_window", default, null=True)


def masks(
    keys: Keys, types: list[str], default: int | None, *, used: bool = True
) -> list[FullAttention | Window]:
    """The mask of each layer by its type; `default` is the family's window, `used` its switch."""
    size = keys.get("sliding_window", int, default, null=True)
    if "sliding_attention" in types:
        if not used:
            raise keys.fail("use_sliding_window", "true where layers slide")
        if size is None or size < 1:
            raise keys.fail("sliding_window", "at least 1 where layers slide")
        return [Window(size) if kind == "sliding_attention" else FullAttention() for kind in types]
    return [FullAttention()] * len(types)

"""Read layers from config.json: their number, the size of their heads, and which of them have a window."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ...config import FullAttention, Window
from .keys import Keys

LAYER_TYPES = ("full_attention", "sliding_attention")  # without a window, with one
SPARSE = ("dense", "sparse")
# What older files call types of layers, as in transformers.
OLDER_TYPES = {
    "attention": "full_attention", "deepseek_sparse_attention": "indexed_attention",
    "mamba": "linear_attention", "qwen_sparse_attention": "indexed_attention",
}  # fmt: skip


def layer_count(keys: Keys, key: str = "num_hidden_layers", default: int | None = None) -> int:
    """Return the number of layers. An absurdly large number is cut to a smaller one that the Config still
    refuses, so that building the layers is cheap.
    """
    return min(keys.size(key) if default is None else keys.size(key, None) or default, 2**16)


def layer_sizes(keys: Keys, key: str, layers: int) -> list[int]:
    """Return the size that a key states for each layer. The file states one number for all layers, or a
    list.
    """
    if not isinstance(keys.values.get(key), list):
        return [keys.size(key)] * layers
    sizes = keys.get(key, list)
    if len(sizes) != layers or any(type(n) is not int or not 1 <= n < 2**63 for n in sizes):
        raise keys.fail(key, f"a number of at least 1, or a list of {layers} such numbers")
    return sizes


def head_size(keys: Keys, width: str = "hidden_size", heads: str = "num_attention_heads") -> int:
    """Return the size of a head: the width divided by the number of heads. The arguments `width` and `heads`
    are the names of the keys.
    """
    total, count = keys.size(width), keys.size(heads)
    if total % count:
        raise keys.fail(width, f"a multiple of {keys.name(heads)} ({count!r:.40})")
    return total // count


def stated_types(keys: Keys, kinds: Sequence[str], key: str = "layer_types") -> list[str] | None:
    """Return the type that a key states for each layer, one of `kinds`. Return None if the key is missing.

    Older names of types are also read.
    """
    if (types := keys.get(key, list, None)) is None:
        return None
    named = {older: newer for older, newer in OLDER_TYPES.items() if newer in kinds}
    named |= {kind: kind for kind in kinds}
    if len(types) != layer_count(keys) or any(type(kind) is not str or kind not in named for kind in types):
        raise keys.fail(key, f"a list of {layer_count(keys)} entries, each one of {', '.join(kinds)}")
    return [named[kind] for kind in types]


def stated_sparse(keys: Keys) -> list[bool] | None:
    """Return for each layer whether the key mlp_layer_types states experts. Return None if the key is
    missing.
    """
    types = stated_types(keys, SPARSE, "mlp_layer_types")
    return None if types is None else [kind == "sparse" for kind in types]


def sparse_layers(keys: Keys, first: int) -> list[bool]:
    """Return for each layer whether it has experts.

    The key mlp_layer_types states this. Without this key, the layers from first_k_dense_replace on have
    experts. `first` is the default of first_k_dense_replace."""
    first, stated = keys.get("first_k_dense_replace", int, first), stated_sparse(keys)
    return [i >= first for i in range(layer_count(keys))] if stated is None else stated


def layer_types(keys: Keys, slides: Callable[[int], bool]) -> list[str]:
    """Return the type of each layer. If the file doesn't state types, `slides(i)` says whether layer i,
    counted from 0, has a window.
    """
    types = stated_types(keys, LAYER_TYPES)
    return [LAYER_TYPES[slides(i)] for i in range(layer_count(keys))] if types is None else types


def rotated_layers(keys: Keys, marks: list[Any] | None) -> list[bool]:
    """Return for each layer whether it has rotary positions.

    `marks` is the value of no_rope_layers, with a 1 for each layer that has rotary positions (contrary to the
    key's name). If `marks` is None, all layers have them except the last of every n layers;
    no_rope_layer_interval states n."""
    every, count = keys.size("no_rope_layer_interval", 4), layer_count(keys)
    if marks is None:
        return [(i + 1) % every != 0 for i in range(count)]
    if len(marks) < count or any(type(mark) not in (int, bool) or mark not in (0, 1) for mark in marks):
        raise keys.fail("no_rope_layers", f"a list of at least {count} entries, each 0 or 1")
    return [mark == 1 for mark in marks[:count]]


def read_window(keys: Keys, default: int | None = None, *, everywhere: bool = True) -> int | None:
    """Return how many tokens a layer with a window sees. Return None if there is no window.

    If `everywhere` is False, only some layers or none may have a window, and any number is accepted here.
    `layer_masks` checks this number if a layer has a window.
    """
    if everywhere:
        return keys.size("sliding_window", default, null=True)
    return keys.get("sliding_window", int, default, null=True)


def layer_masks(
    keys: Keys, types: list[str], window: int | None, *, used: bool = True
) -> list[FullAttention | Window]:
    """Return the mask of each layer, which depends on the layer's type. `window` is the result of
    `read_window`. `used` says whether windows are used at all.
    """
    if "sliding_attention" not in types:
        return [FullAttention()] * len(types)
    if not used:
        raise keys.fail("use_sliding_window", "true if a layer has a window")
    if window is None or window < 1:
        raise keys.fail("sliding_window", "at least 1 if a layer has a window")
    return [Window(window) if kind == "sliding_attention" else FullAttention() for kind in types]


def kv_sources(
    keys: Keys, types: list[str], default: int, key: str = "num_kv_shared_layers"
) -> list[int | None]:
    """Return for each layer the index of another layer from which it takes keys and values. Return None for a
    layer that makes its own.

    Each of the topmost layers takes the keys and values of the last layer of the same type below all of them.
    `key` states how many layers do so, and `default` is used if the key is missing.
    """
    count = keys.get(key, int, default)
    if not 0 <= count < len(types):
        raise keys.fail(key, f"0 to {len(types) - 1}, which is below the number of layers")
    own = types[: len(types) - count]
    if missing := sorted(set(types) - set(own)):
        raise keys.fail(
            key, f"smaller: at least one layer of type {missing[0]} must keep its own keys and values"
        )
    last = {kind: i for i, kind in enumerate(own)}
    return [None] * len(own) + [last[kind] for kind in types[len(own) :]]

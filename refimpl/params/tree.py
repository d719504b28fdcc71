"""The nested dict of parameters, and the dotted names that parameters have in files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Tree = Mapping[str, Any]


def flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, parameter) for every parameter of a tree, in the tree's own order."""
    if isinstance(tree, Mapping):
        for key in tree:
            yield from flatten(tree[key], f"{prefix}{key}.")
    elif isinstance(tree, list):
        for i, item in enumerate(tree):
            yield from flatten(item, f"{prefix}{i}.")
    else:
        yield prefix[:-1], tree


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Return the nested tree of parameters with these dotted names. A level with the keys 0, 1, … becomes
    a list.
    """
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *path, last = name.split(".")
        level = tree
        for key in path:
            level = level.setdefault(key, {})
        level[last] = leaf
    return _lists(tree)


def _lists(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    level = {k: _lists(v) for k, v in tree.items()}
    if level and list(level) == [str(i) for i in range(len(level))]:
        return list(level.values())
    return level


def leaf_of(tree: Tree, name: str) -> Any:
    """Return the parameter that a dotted name names in a tree."""
    leaf: Any = tree
    for key in name.split("."):
        leaf = leaf[int(key) if isinstance(leaf, list) else key]
    return leaf


def map_leaves(function: Callable[[str, Any], Any], tree: Tree) -> dict[str, Any]:
    """Return a tree with `function(dotted name, parameter)` in place of each parameter."""

    def mapped(item: Any, name: str) -> Any:
        if isinstance(item, Mapping):
            return {key: mapped(item[key], f"{name}.{key}") for key in item}
        if isinstance(item, list):
            return [mapped(part, f"{name}.{i}") for i, part in enumerate(item)]
        return function(name, item)

    return {key: mapped(tree[key], key) for key in tree}


def like(value: Any, items: Iterable[Any]) -> Any:
    """Return these items in a list, tuple or NamedTuple of the same type as `value`."""
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)

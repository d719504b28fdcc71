"""A tree of weights that loads a parameter each time the parameter is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from .tree import Tree, leaf_of, map_leaves, unflatten


class Lazy(Mapping[str, Any]):
    """A nested mapping that loads a parameter each time the parameter is read."""

    def __init__(self, tree: Mapping[str, Any], load: Callable[[str], Any]) -> None:
        self._tree, self._load = tree, load

    def __getitem__(self, key: str) -> Any:
        return self._wrap(self._tree[key])

    def _wrap(self, item: Any) -> Any:
        if isinstance(item, list):
            return [self._wrap(i) for i in item]
        return self._load(item) if isinstance(item, str) else Lazy(item, self._load)

    def loaded_by(self, load: Callable[[str], Any]) -> Lazy:
        """Return a tree with the same names, in which `load` gives each parameter."""
        return Lazy(self._tree, load)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)

    def __contains__(self, key: object) -> bool:
        return key in self._tree


def lazily(names: Iterable[str], load: Callable[[str], Any]) -> Lazy:
    """Return a lazy tree with these dotted names. `load` gets the dotted name of a parameter and returns
    the parameter.
    """
    return Lazy(unflatten({name: name for name in names}), load)


def changed_lazily(tree: Tree, change: Callable[[str, Any], Any]) -> Lazy:
    """Return a lazy tree in which each parameter is replaced by `change(dotted name, parameter)`. `change`
    is called each time the parameter is read.
    """

    def load(name: str) -> Any:
        return change(name, leaf_of(tree, name))

    if isinstance(tree, Lazy):
        return tree.loaded_by(load)
    return Lazy(map_leaves(lambda name, _: name, tree), load)


def materialize(tree: Tree) -> dict[str, Any]:
    """Load all parameters of a tree, and return the tree with the parameters in memory."""

    def loaded(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {key: loaded(item[key]) for key in item}
        return [loaded(i) for i in item] if isinstance(item, list) else item

    return loaded(tree)

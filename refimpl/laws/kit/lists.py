"""Lists of weights: how many items they have, and of which sizes."""

from __future__ import annotations

from .declare import Function, Parameter

Sizes = dict[str, int]


def items_of(p: Parameter, size: Sizes) -> list[Sizes]:
    """The sizes of each item: all experts have the same, each cluster of words is narrower and longer."""
    match p.name:
        case "experts":
            return [size] * size["E"]
        case "tails":
            clusters = range(min(3, size["F"] - 1))
            return [{**size, "K": max(1, size["K"] - c), "V": size["V"] + c} for c in clusters]
    raise KeyError(f"{p.name} is a list: say what it holds in lists.py")


def settled(f: Function, size: Sizes) -> Sizes:
    """The sizes, with the vocabulary computed from the short list and the clusters."""
    tails = [tail for p in f.leaves if p.name == "tails" for tail in items_of(p, size)]
    if not any(p.name == "tails" for p in f.leaves):
        return size
    return {**size, "N": size["F"] - len(tails) + sum(tail["V"] for tail in tails)}

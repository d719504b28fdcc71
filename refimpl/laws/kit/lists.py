"""Lists of weights: how many items a random list has, and which sizes each item has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .declare import Function, Parameter

Sizes = dict[str, int]


def items_of(p: Parameter, size: Sizes) -> list[Sizes]:
    """Return the sizes of each item of a list of weights.

    Experts read the mixture's latent if it has one. The mlps inside a mixer read vectors as wide as the
    mixer's heads together. All streams except the first have the same sizes. Each cluster of words is
    narrower and longer than the previous one.
    """
    match p.name:
        case "experts":
            return [{**size, "D": size.get("C", size["D"])}] * size["E"]
        case "mlps":
            return [{**size, "D": size["H"] * size["K"]}] * 2
        case "streams":
            return [size] * (size["X"] - 1)
        case "tails":
            clusters = range(min(3, size["F"] - 1))
            return [{**size, "K": max(1, size["K"] - c), "V": size["V"] + c} for c in clusters]
    raise KeyError(f"{p.name} is a list: state its items in lists.py")


def settled(f: Function, size: Sizes, chosen: Mapping[str, Any]) -> Sizes:
    """Return the sizes with two corrections: the vocabulary is computed from the short list and the
    clusters, and without a latent (of experts or of queries), the latent's size is the input's size.
    """
    for down, latent in (("latent_down", "C"), ("wq_a", "F")):
        if chosen.get(down, ...) is None:
            size = {**size, latent: size["D"]}
    tails = [tail for p in f.leaves if p.name == "tails" for tail in items_of(p, size)]
    if not any(p.name == "tails" for p in f.leaves):
        return size
    return {**size, "N": size["F"] - len(tails) + sum(tail["V"] for tail in tails)}

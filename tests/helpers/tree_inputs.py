"""Arguments of the functions of complete trees, which no annotation can draw, and their error budgets."""

from __future__ import annotations

from typing import Any

import numpy as np
from tfm.export.torch_engine import tensors
from tfm.refimpl.config import Config
from tfm.refimpl.engine.cache_kinds import CacheKind, cache_kinds
from tfm.refimpl.laws.kit.budget import budgets
from tfm.refimpl.ops.position import Rotary
from tfm.refimpl.ops.position_tables import position_tables
from tfm.refimpl.ops.quant import Blocks, quantize
from tfm.refimpl.params.shapes import multiplied
from tfm.refimpl.params.tree import map_leaves


def tensor(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: tensor(v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(tensor(v) for v in value))
    if isinstance(value, tuple | list):
        return type(value)(tensor(v) for v in value)
    return tensors(value) if isinstance(value, np.ndarray | Blocks) else value


def inputs(config: Config, seed: int, b: int, t: int, old: int, p: int) -> dict[str, Any]:
    """The arguments of `model` but the tree, by name; `old` is the longest past, L = old + T."""
    rng = np.random.default_rng(seed)
    floats = lambda *s: rng.standard_normal(s).astype(np.float32)  # noqa: E731
    tables = position_tables(np.arange(old + t), config=config)
    lengths = rng.integers(0, t + 1, b)

    def cache(kind: CacheKind) -> Any:
        value = kind.empty(b, old + t, np.dtype(np.float32))
        arrays = {
            array.name: floats(*shape)
            for array, shape in zip(kind.arrays, kind.shapes(b, old + t), strict=True)
        }
        if "norm" in arrays:  # a sum of features, which are never negative
            arrays["norm"] = np.abs(arrays["norm"])
        return kind.with_lengths(type(value)(*arrays.values()), lengths)

    return {
        "tokens": rng.integers(0, config.embedding.vocabulary, (b, t)),
        "past": rng.integers(0, old + 1, b),
        "at": rng.integers(0, t, (b, p)),
        "rotary": {rope: Rotary(*(a.astype(np.float32) for a in pair)) for rope, pair in tables.items()},
        "cache": [cache(kind) for kind in cache_kinds(config)],
    }


def quantized(config: Config, tree: Any, seed: int) -> Any:
    """The tree with its matrices as Blocks whose products don't round activations."""
    rng, products = np.random.default_rng(seed), multiplied(config)

    def leaf(name: str, a: np.ndarray) -> Any:
        if name not in products or rng.random() < 0.3:
            return a
        axis = int(name.endswith("table"))
        return quantize(a, bits=8, block=4, axis=axis, symmetric=bool(seed % 2), activations="none")

    return map_leaves(leaf, tree)


# An activation's error of 1e-7 · |input| (`budget.APPROXIMATE`), through norms and an output table.
ACTIVATIONS = 1e-6


def budget(run: Any) -> dict[str, float]:
    """The computed budget, plus the approximation of activation kernels."""
    return {n: b + ACTIVATIONS for n, b in budgets(run).items()}

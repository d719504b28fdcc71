"""A text longer than a run, read in steps: what is specified of it, and what an engine gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from tfm.refimpl.config import Decoder
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.error_budget import TRIES, error_terms
from tfm.refimpl.laws.kit.budget import cast, map_floats
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.refimpl.params.tree import flatten, unflatten

LENGTH = 512
STEPS = ([LENGTH], [1, 200, 128, 129, 3, 51], [1] * LENGTH)
EVERY = np.arange(LENGTH)[None]


def specified(config: Decoder, params: Any, ids: np.ndarray) -> tuple[np.ndarray, float]:
    """Logits of the whole text in float64, and how far those of another implementation may be off."""
    leaves, rng = dict(flatten(params)), np.random.default_rng(0)

    def moved(a: np.ndarray) -> np.ndarray:
        towards = np.where(rng.random(a.shape) < 0.5, np.inf, -np.inf).astype(np.float32)
        return np.nextafter(a.astype(np.float32), towards).astype(np.float64)

    def logits(change: Any) -> np.ndarray:
        tree = unflatten({name: change(leaves[name]) for name in parameter_shapes(config)})
        engine = NumpyEngine(config, tree)
        return engine.step(ids, engine.start(1), at=EVERY)[0]

    exact = logits(lambda leaf: cast(leaf, np.float64))
    others = [logits(lambda leaf: map_floats(leaf, moved)) for _ in range(TRIES)]
    return exact, error_terms(exact, logits(lambda leaf: cast(leaf, np.float32)), others).budget


def in_steps(engine: Any, ids: np.ndarray, sizes: list[int]) -> np.ndarray:
    """The text's logits, `sizes` tokens a step."""
    cache, results = engine.start(1), []
    for stop, size in zip(np.cumsum(sizes), sizes, strict=True):
        at = np.arange(size)[None]
        logits, cache = engine.step(ids[:, stop - size : stop], cache, at=at)
        results.append(logits)
    return np.concatenate(results, 1)


def in_a_batch(engine: Any, ids: np.ndarray) -> tuple[np.ndarray, Any]:
    """The text's logits between two other rows, one of them empty, and the cache of all three."""
    rows = np.concatenate([ids[:, ::-1], ids, ids[:, ::-1]])
    logits, cache = engine.step(rows, engine.start(3), np.array([7, LENGTH, 0]), EVERY.repeat(3, axis=0))
    return logits[1:2], cache

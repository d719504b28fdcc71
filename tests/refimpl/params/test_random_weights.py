"""Random weights are of a size with which a model computes sensible numbers."""

import numpy as np
from helpers import tiny_models
from tfm.refimpl.params.random_weights import random_weights
from tfm.refimpl.params.tree import flatten


def draw(seed: int, dtype: type = np.float32) -> dict[str, np.ndarray]:
    config = tiny_models.llama(bias=True, qk_norm=True).with_kv("int8")
    return dict(flatten(random_weights(config, np.random.default_rng(seed), dtype)))


def test_equal_seeds_give_equal_weights():
    first, again, other = draw(0), draw(0), draw(1)
    assert all((first[name] == again[name]).all() for name in first)
    assert not any((first[name] == other[name]).any() for name in first)
    assert {array.dtype for array in draw(0, np.float64).values()} == {np.dtype(np.float64)}


def test_sizes():
    """Norms lie around 1, scales above 0, matrices keep the size of what they multiply."""
    weights = draw(0)
    for name, array in weights.items():
        if name.endswith(("pre.weight", "norm.weight", "_norm")):
            assert abs(array.mean() - 1) < 0.3, name
        elif name.endswith("_scale"):
            assert array.min() > 0, name
        elif array.ndim == 2:
            fan_in = array.shape[-1 if name.endswith("table") else 0]
            assert 0.8 < array.std() * fan_in**0.5 < 1.2, name

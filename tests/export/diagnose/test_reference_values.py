"""Budgets of a graph's parts are those of one part each."""

import numpy as np
import pytest
from helpers import tiny_models
from tfm.export.diagnose.reference_values import reference_values
from tfm.refimpl.params.tree import flatten, unflatten


@pytest.mark.parametrize("seed", range(3))
def test_budgets_do_not_grow_with_depth(seed):
    """Queries are so large that a layer makes differences several times as large: added up, those of 16
    layers are 30 times the first one's or more."""
    names = [f"layer {i}, output" for i in range(16)]
    config = tiny_models.llama(layers=16, width=24, heads=2, kv_heads=1, head_size=12, mlp=24)
    leaves = dict(flatten(tiny_models.weights(config, seed)))
    leaves |= {name: leaf * np.float32(32) for name, leaf in leaves.items() if name.endswith(".wq")}
    tokens = np.random.default_rng(5).integers(0, 97, (2, 7))
    reference = reference_values(config, unflatten(leaves), tokens, names, np.dtype(np.float32))
    first, *later = (reference.budgets[name] / np.abs(reference.values[name]).max() for name in names)
    assert max(later) < 8 * first

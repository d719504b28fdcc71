"""What `step` does where its optional arguments are left out."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import tiny_models
from tfm.refimpl.engine.numpy_engine import NumpyEngine


@pytest.mark.parametrize("lengths", [None, [5, 3]])
def test_logits_are_of_each_rows_last_token_where_no_position_is_named(lengths: list[int] | None) -> None:
    config = tiny_models.mixed_windows(context=60)
    engine = NumpyEngine(config, tiny_models.weights(config, seed=3))
    tokens = np.random.default_rng(0).integers(0, 97, (2, 5))
    given = None if lengths is None else np.array(lengths)
    last = [[4], [4]] if lengths is None else [[4], [2]]
    unnamed, cache = engine.step(tokens, engine.start(2), given)
    named, _ = engine.step(tokens, engine.start(2), given, np.array(last))
    first, _ = engine.step(tokens, engine.start(2), given, np.zeros((2, 1), np.int64))
    assert np.array_equal(unnamed, named)
    assert not np.allclose(unnamed, first)
    assert cache.lengths.tolist() == (lengths or [5, 5])

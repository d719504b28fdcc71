"""How much of a model the streamed reference holds at a time."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from tfm.refimpl.config import LM, Config
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.ops.dispatch import OPS, body, use
from tfm.refimpl.ops.encoder import encode, predict
from tfm.refimpl.params.lazy import lazily
from tfm.refimpl.params.tree import flatten
from tfm.runtime.verification.streamed_reference import Inputs, Precision, outputs


def test_of_tables_the_rows_of_the_text_stay() -> None:
    """A table is dropped before the next leaf is loaded; the numbers are those of all leaves in memory."""
    config = tiny_models.shared_kv()
    weights = tiny_models.weights(config)
    leaves = dict(flatten(weights))
    tables = {
        name: leaf for name, leaf in leaves.items() if name.startswith("embedding.") and "table" in name
    }
    assert set(tables) == {"embedding.table", "embedding.per_layer.table"}
    loaded: list[weakref.ref[np.ndarray]] = []

    def load(name: str) -> np.ndarray:
        assert all(table() is None for table in loaded), f"a whole table is in memory beside {name}"
        leaf = leaves[name].copy()
        if name in tables:
            loaded.append(weakref.ref(leaf))
        return leaf

    inputs = Inputs(np.array([[13, 9, 60, 2], [4, 8, 90, 0]]), np.array([4, 3]))
    runs = [Precision(np.dtype(np.float64))]
    (got,) = outputs(config, lazily(leaves, load), inputs, runs)
    (expected,) = outputs(config, weights, inputs, runs)
    np.testing.assert_array_equal(got, expected)


def test_layers_that_compare_token_types_get_them() -> None:
    config = tiny_models.relative()
    weights = tiny_models.weights(config, dtype=np.float64)
    ids, lengths, types = (
        np.array([[13, 9, 60, 2], [4, 8, 90, 0]]),
        np.array([4, 3]),
        np.array([[0, 0, 1, 2]]),
    )
    types = np.repeat(types, 2, axis=0)
    (got,) = outputs(config, weights, Inputs(ids, lengths, token_types=types), [Precision(np.dtype(float))])
    expected = predict(
        encode(ids, lengths, {}, weights, types, config=config), lengths, weights, config=config
    )
    np.testing.assert_allclose(got[:, :3], expected[:, :3], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", [tiny_models.llama(), tiny_models.encoder()], ids=["decoder", "encoder"])
def test_the_stream_is_rounded_after_the_embedding_and_each_layer(config: Config) -> None:
    weights = tiny_models.weights(config)
    ids, lengths = np.array([[13, 9, 60, 2], [4, 8, 90, 5]]), np.array([4, 4])
    run = Precision(np.dtype(np.float32), stream=np.dtype(np.float16))
    (got,) = outputs(config, weights, Inputs(ids, lengths), [run])

    def rounded(name: str) -> Any:
        def call(*arguments: Any, **settings: Any) -> Any:
            y = body(OPS[name])(*arguments, **settings)
            x, *others = y if isinstance(y, tuple) else (y,)
            x = x.astype(np.float16).astype(np.float32)
            return (x, *others) if others else x

        return call

    engine = NumpyEngine(config, weights)
    with use({name: rounded(name) for name in ("embed", "block", "encoder_block")}):
        if isinstance(config.head, LM):
            expected, _ = engine.step(ids, engine.start(2), at=np.tile(np.arange(4), (2, 1)))
        else:
            expected = engine.predict(ids)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)

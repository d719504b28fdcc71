"""What the recorder sees of windows that are read together is what the specification computes of each."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from tfm.export.quantization.activation_recorder import record
from tfm.refimpl.config import LM, Config, Decoder
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.ops.dispatch import body, use
from tfm.refimpl.ops.embedding import unembedding
from tfm.refimpl.ops.linear import linear
from tfm.refimpl.params.tree import flatten

MODELS: dict[str, Config] = {
    "decoder": tiny_models.llama(layers=3, bias=True),
    "mixture": tiny_models.mixture(),
    "vectors for each layer": tiny_models.shared_kv(),
    "states": tiny_models.state_spaces(),
    "encoder": tiny_models.encoder(),
    "pair": tiny_models.rotary_encoder_decoder(),
}
WINDOWS = [[3, 5, 7, 9, 11], [4, 4, 8]]
Seen = dict[str, list[np.ndarray]]


def specified(config: Config, params: dict[str, Any], window: list[int]) -> tuple[Seen, Seen]:
    """The inputs and outputs of each product, by its leaf, in a run of the specification."""
    names = {id(leaf): name for name, leaf in flatten(params)}
    inputs, outputs = defaultdict(list), defaultdict(list)

    def product(x: np.ndarray, weight: Any, bias: Any = None) -> np.ndarray:
        y = body(linear)(x, weight)
        if id(weight) in names:  # the output table comes transposed
            inputs[names[id(weight)]].append(x.reshape(-1, x.shape[-1]))
            outputs[names[id(weight)]].append(y.reshape(-1, y.shape[-1]))
        return y if bias is None else y + bias

    def table_product(x: np.ndarray, table: np.ndarray) -> np.ndarray:
        y = body(unembedding)(x, table)
        inputs[names[id(table)]].append(x.reshape(-1, x.shape[-1]))
        outputs[names[id(table)]].append(y.reshape(-1, y.shape[-1]))
        return y

    engine, ids = NumpyEngine(config, params), np.array([window])
    with use({"linear": product, "unembedding": table_product}):
        if not isinstance(config.head, LM):
            engine.predict(ids)
        else:
            cache = engine.start() if isinstance(config, Decoder) else engine.start(1, ids)
            engine.step(ids, cache, at=np.arange(len(window))[None])
    return inputs, outputs


@pytest.mark.parametrize("with_outputs", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_inputs_and_outputs_are_the_specifications(name: str, with_outputs: bool) -> None:
    config = MODELS[name]
    params = tiny_models.weights(config)
    leaves, seen, given, loaded = dict(flatten(params)), defaultdict(list), defaultdict(list), []

    def on_input(users: tuple[str, ...], x: np.ndarray) -> None:
        for user in users:
            seen[user].append(x)

    record(
        config,
        lambda leaf: loaded.append(leaf) or leaves[leaf],
        windows=WINDOWS,
        on_input=on_input,
        on_output=(lambda leaf, y: given[leaf].append(y)) if with_outputs else None,
    )
    parts = [specified(config, params, window) for window in WINDOWS]
    for recorded, kind in ((seen, 0), (given, 1)) if with_outputs else ((seen, 0),):
        assert recorded.keys() == parts[0][kind].keys()
        for leaf, values in recorded.items():
            expected = np.concatenate([x for part in parts for x in part[kind][leaf]])
            np.testing.assert_allclose(np.concatenate(values), expected, rtol=1e-4, atol=1e-4, err_msg=leaf)
    twice = {leaf for leaf in loaded if loaded.count(leaf) > 1}
    needed = with_outputs or not isinstance(config, Decoder)  # for each stack, and for logits
    assert twice <= ({"embedding.table"} if needed else set())

"""The mirror's encoder, and its decoder that reads one, against the specification."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_models
from helpers.config_strategies import encoders, pairs
from helpers.mirror import OverTensors, over_tensors
from helpers.tree_inputs import budget, quantized, tensor
from helpers.tree_inputs import inputs as decoder_inputs
from hypothesis import given
from hypothesis import strategies as st
from tfm.export.targets import multi_head_attention
from tfm.export.torch_engine import TorchEngine
from tfm.refimpl.config import Attention, Config, Window
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.laws.kit.budget import FINE, cast, expected
from tfm.refimpl.laws.kit.results import compare, flat
from tfm.refimpl.ops import encoder as spec
from tfm.refimpl.ops import model as spec_model
from tfm.refimpl.ops.position import Rotary
from tfm.refimpl.ops.position_tables import position_tables

mirror, mirror_model = map(OverTensors, (spec, spec_model))
seeds = st.integers(0, 2**32 - 1)
few = st.integers(1, 4)


def text(config: Config, seed: int, b: int, t: int) -> dict[str, Any]:
    """The arguments of `encode` but the tree, by name."""
    rng = np.random.default_rng(seed)
    tables = position_tables(np.arange(t), config=config)
    types = config.embedding.token_types
    return {
        "tokens": rng.integers(0, config.embedding.vocabulary, (b, t)),
        "lengths": rng.integers(0, t + 1, b),
        "rotary": {rope: Rotary(*(a.astype(np.float32) for a in pair)) for rope, pair in tables.items()},
        "types": None if types is None else rng.integers(0, types, (b, t)),
    }


def agree(label: str, run: Any, f: Any) -> None:
    """`run(change, function)` of the spec, which is its default, and of the mirror, in both precisions."""
    allowed = budget(run)
    for dtype, share in ((np.float64, FINE), (np.float32, 1.0)):
        typed = lambda a, dtype=dtype: tensor(cast(a, dtype))  # noqa: E731
        got = dict(flat(run(typed, f)))
        assert {a.dtype for a in got.values()} == {torch.from_numpy(np.zeros(0, dtype)).dtype}
        compare(f"{label} {dtype.__name__}", got, expected(run, dtype), allowed, share)


@given(encoders(), seeds, few, few)
def test_encode_and_predict(config: Config, seed: int, b: int, t: int):
    """The vectors, and each head's output; quantized or not."""
    tree = tiny_models.weights(config, seed)
    tree = quantized(config, tree, seed) if seed % 3 == 0 else tree
    ids, lengths, tables, types = text(config, seed, b, t).values()
    types = types if seed % 2 else None

    def encode(change: Any, f: Any = spec.encode) -> Any:
        return f(
            ids if f is spec.encode else tensor(ids),
            *map(change, (lengths, tables, tree, types)),
            config=config,
        )

    agree("encode", encode, mirror.encode)
    states = np.random.default_rng(seed).standard_normal((b, t, config.embedding.width)).astype(np.float32)
    agree(
        "predict",
        lambda change, f=spec.predict: f(*map(change, (states, lengths, tree)), config=config),
        mirror.predict,
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_score_that_hides_a_key_is_finite(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """Padding and a window may hide the same key, and both are added to its score."""
    seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def symbolic(name: str, inputs: tuple[Any, ...], attributes: dict[str, Any], **_: Any) -> torch.Tensor:
        seen.append((inputs, attributes))
        return inputs[0]

    monkeypatch.setattr(multi_head_attention.onnx, "symbolic", symbolic)
    x, square = torch.ones(1, 4, 8, dtype=dtype), torch.ones(8, 8, dtype=dtype)
    leaves: Any = dict.fromkeys(("wq", "wk", "wv", "wo"), square)
    attention = Attention(2, 2, 4, mask=Window(2))
    over_tensors(multi_head_attention.self_attention)(x, torch.tensor([4]), leaves, settings=attention)
    [((*_, bias), attributes)] = seen
    padding = torch.tensor(attributes["mask_filter_value"], dtype=dtype)
    assert bias.min() == padding < -1e4
    assert (bias + padding).isfinite().all()


@given(pairs(), seeds, few, few, few, st.integers(0, 3))
def test_a_decoder_reads_an_encoder(config: Config, seed: int, b: int, t: int, s: int, old: int):
    """Keys and values of an encoder's output, and the decoder that reads them."""
    tree = tiny_models.weights(config, seed)
    rng = np.random.default_rng(seed)
    states = rng.standard_normal((b, s, config.text_embedding.width)).astype(np.float32)
    lengths = rng.integers(0, s + 1, b)

    def keys_and_values(change: Any, f: Any = spec.encoder_kv) -> Any:
        read = f(*map(change, (states, lengths, tree)), config=config)
        return [(layer.keys, layer.values) for layer in read]

    agree("encoder_kv", keys_and_values, mirror.encoder_kv)
    given_ = decoder_inputs(config, seed, b, t, old, 2)
    read = spec.encoder_kv(states, lengths, tree, config=config)
    run = lambda change, f=spec_model.model: f(  # noqa: E731
        *(change(a) for a in given_.values()), change(tree), change(read), config=config
    )
    agree("model", run, mirror_model.model)


def test_layers_that_compare_token_types_get_them():
    """Two segments in a text, which few drawn models have and few of these see."""
    config = tiny_models.relative()
    tree = tiny_models.weights(config)
    ids, lengths, types = np.array([[13, 9, 60, 2]]), np.array([4]), np.array([[0, 0, 1, 2]])

    def run(change: Any, f: Any = spec.encode) -> Any:
        tokens = ids if f is spec.encode else tensor(ids)
        return f(tokens, *map(change, (lengths, {}, tree, types)), config=config)

    agree("encode", run, mirror.encode)


def test_distance_biases():
    """Of all distances, those that no short text has too."""
    config = tiny_models.summarized()
    tree, stack = tiny_models.weights(config)["encoder"], config.stacks["encoder"]
    run = lambda change, f=spec_model.distance_biases: f(change(tree), stack=stack)  # noqa: E731
    agree("distance_biases", run, mirror_model.distance_biases)


@given(pairs(), seeds)
def test_engines_agree(config: Config, seed: int):
    """NumPy and torch engines, encoder once, two steps, rows of unequal length."""
    tree, rng = tiny_models.weights(config, seed, np.float64), np.random.default_rng(seed)
    ids = rng.integers(0, config.embedding.vocabulary, (3, 2, 4))
    results = []
    for engine in (NumpyEngine(config, tree), TorchEngine(config, tree)):
        cache = engine.start(2, ids[0], np.array([4, 2]))
        first, cache = engine.step(ids[1], cache, np.array([3, 4]))
        second, _ = engine.step(ids[2][[1, 0]], cache.select(np.array([1, 0])))
        results.append({"encode": engine.encode(ids[0]), "first": first, "second": second})
    compare("torch engine", results[1], results[0], dict.fromkeys(results[0], 1e-9))

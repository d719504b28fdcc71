"""The mirror's functions of whole trees against the specification's: values, then graphs.

refimpl/laws can't draw these from their annotations, which don't say which subtree of which
Config is meant, so they are fed from drawn Configs here; `HAND` names them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_models
from helpers.config_strategies import configs
from helpers.mirror import OverTensors
from helpers.onnx_graph import TRACED, Graph, export
from helpers.tree_inputs import budget, flat_inputs, inputs, quantized, tensor
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tfm.refimpl.config import LM, Config, LayerNorm, Llama3Scaling, Plain, RMSNorm
from tfm.refimpl.laws.kit.budget import FINE, budgets, cast, expected
from tfm.refimpl.laws.kit.results import compare, flat
from tfm.refimpl.laws.kit.settings import HAND
from tfm.refimpl.ops import block as spec_block
from tfm.refimpl.ops import encoder as spec_encoder
from tfm.refimpl.ops import model as spec_model
from tfm.refimpl.ops.cache import KVCache
from tfm.refimpl.ops.position import Rotary

seeds = st.integers(0, 2**32 - 1)
SPECS = {"block": spec_block, "encoder": spec_encoder, "model": spec_model}
mirror_block, mirror_encoder, mirror_model = map(OverTensors, SPECS.values())


def test_these_are_the_functions_fed_by_hand():
    """But the rotary tables, which NumPy makes for every engine."""
    assert {name.split(".")[0] for name in HAND} == {*SPECS, "position_tables"}


@given(configs(), seeds, *(st.integers(1, 4) for _ in range(2)), st.integers(0, 5), st.integers(0, 3))
def test_model(config: Config, seed: int, b: int, t: int, old: int, p: int):
    """Logits and caches of any Config, quantized or not, float64 and float32."""
    tree = tiny_models.weights(config, seed)
    tree = quantized(tree, seed) if seed % 3 == 0 else tree
    given_ = [*inputs(config, seed, b, t, old, p).values(), tree]
    run = lambda change, f=spec_model.model: f(*(change(a) for a in given_), config=config)  # noqa: E731
    allowed = budget(run)
    for dtype, share in ((np.float64, FINE), (np.float32, 1.0)):
        typed = lambda a, dtype=dtype: tensor(cast(a, dtype))  # noqa: E731
        got = dict(flat(run(typed, mirror_model.model)))
        assert {a.dtype for a in got.values()} == {torch.from_numpy(np.zeros(0, dtype)).dtype}
        compare(f"model {dtype.__name__}", got, expected(run, dtype), allowed, share)


@pytest.mark.parametrize(
    ("name", "quantizes"),
    [
        ("attention", True),
        ("latents", False),
        ("deltas", True),
        pytest.param("experts", False, marks=pytest.mark.long),
        pytest.param("apart", True, marks=pytest.mark.long),
    ],
)
def test_module(name: str, quantizes: bool):
    """A decoder with its vectors, and the module that reads them, quantized or not."""
    seed, b, t, old, p = 3, 2, 3, 4, 2
    config = tiny_models.MODULES[name]()
    tree = tiny_models.weights(config, seed)
    tree = quantized(tree, seed) if quantizes else tree
    own = inputs(config.mtp_decoder, seed, b, t, old, p)
    hidden = np.random.default_rng(seed).standard_normal((b, t, config.embedding.width)).astype(np.float32)
    pairs = [own.pop("tokens"), hidden, *own.values(), tree]
    calls = {"model_with_hidden": [*inputs(config, seed, b, t, old, p).values(), tree], "mtp_model": pairs}
    for function, given_ in calls.items():
        spec, mirror = (getattr(ops, function) for ops in (spec_model, mirror_model))
        run = lambda change, f=spec, g=given_: f(*(change(a) for a in g), config=config)  # noqa: E731
        allowed = budget(run)
        for dtype, share in ((np.float64, FINE), (np.float32, 1.0)):
            typed = lambda a, dtype=dtype: tensor(cast(a, dtype))  # noqa: E731
            compare(function, dict(flat(run(typed, mirror))), expected(run, dtype), allowed, share)


def positions(config: Config, tree: Any, inputs: dict[str, Any], t: int, capacity: int) -> Any:
    """Rotary tables and biases for a decoder's layers."""
    queries, keys, stack_weights = (
        inputs["past"][:, None] + np.arange(t),
        np.arange(capacity),
        tree["decoder"],
    )
    stack, dtype = config.stacks["decoder"], np.dtype(np.float32)
    biases = spec_model.score_biases(queries, keys, stack_weights, dtype, stack=stack, bidirectional=False)
    return spec_block.Positions(inputs["rotary"], biases)


@given(configs(), seeds, st.integers(1, 3), st.integers(1, 3), st.integers(0, 3))
def test_block(config: Config, seed: int, b: int, t: int, old: int):
    """One layer alone; it also equals the model between table and final norm."""
    layer, tree = config.layers[0], tiny_models.weights(config, seed)
    model_inputs = inputs(config, seed, b, t, old, 1)
    streams = () if layer.altup is None else (layer.altup.streams,)
    shape = (b, t, *streams, config.embedding.width)
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    leaves = tree["decoder"]["layers"][0]
    near = positions(config, tree, model_inputs, t, old + t)
    vectors = None
    if layer.per_layer is not None:
        rng = np.random.default_rng(seed + 1)
        vectors = rng.standard_normal((b, t, layer.per_layer.width)).astype(np.float32)
    own = spec_block.LayerInputs(None, vectors)
    given_ = [x, model_inputs["cache"][0], model_inputs["past"], near, leaves, own]
    run = lambda change, f=spec_block.block: f(*(change(a) for a in given_), config=layer)  # noqa: E731
    allowed = budget(run)
    for dtype, share in ((np.float64, FINE), (np.float32, 1.0)):
        typed = lambda a, dtype=dtype: tensor(cast(a, dtype))  # noqa: E731
        compare("block", dict(flat(run(typed, mirror_block.block))), expected(run, dtype), allowed, share)


@given(
    seeds,
    st.one_of(
        st.sampled_from((None, RMSNorm(0.1))),
        st.builds(LayerNorm, st.sampled_from((0.1, 1e-5)), st.booleans(), st.booleans()),
    ),
)
def test_normalize(seed: int, norm: Any):
    rng = np.random.default_rng(seed)
    x, weight, bias = rng.standard_normal((2, 3, 5)), rng.standard_normal(5), rng.standard_normal(5)
    tree = {"weight": weight} | ({"bias": bias} if isinstance(norm, LayerNorm) and norm.bias else {})
    if isinstance(norm, LayerNorm) and not norm.weight:
        del tree["weight"]
    tree = tree or None
    run = lambda change, f=spec_block.normalize: f(change(x), change(tree), norm=norm)  # noqa: E731
    got = run(lambda a: tensor(cast(a, np.float64)), mirror_block.normalize)
    compare("normalize", dict(flat(got)), expected(run, np.float64), budgets(run), FINE)


def odd() -> Config:
    """Options that no Llama has, in one model: both norms everywhere, partial rotary, caps, scales,
    parallel sublayers."""
    config = tiny_models.llama(window=3, bias=True, qk_norm=True, tied=False)
    first = config.layers[0]
    rope = replace(first.attention.position, dims=8, interleaved=True, scaling=Llama3Scaling(8, 1, 4, 64))
    norms = {"pre": LayerNorm(1e-5, bias=False), "post": RMSNorm(1e-5), "after": LayerNorm(1e-5)}
    attention = replace(first.attention, position=rope, scale=0.3, softcap=2.0, **norms)
    second = replace(first, attention=attention, mlp=Plain(24, "gelu_tanh", True, **norms), parallel=True)
    third = replace(first, attention=replace(first.attention, position=None))
    return replace(
        config,
        embedding=replace(config.embedding, scale=3.0),
        stack=replace(config.stack, layers=(first, second, third)),
        head=LM(tied=False, softcap=2.0),
    )


def graph(config: Config, tree: Any, opset: int) -> Graph:
    """`model` exported as a graph of all its arrays but the tree."""
    traced = inputs(config, 0, TRACED["B"], TRACED["T"], TRACED["O"], TRACED["P"])
    axes = {"tokens": ("B", "T"), "past": ("B",), "at": ("B", "P"), "rotary": ("L", "J")}
    named = {n: (a, axes.get(n.split(".")[0], ("B", "G", "L", "K"))) for n, a in flat_inputs(traced).items()}
    weights = tensor(tree)

    def call(*given_: torch.Tensor) -> list[torch.Tensor]:
        tokens, past, at, *others = given_
        pairs = list(zip(others[0::2], others[1::2], strict=True))
        ropes = len(config.ropes)
        rotary = {rope: Rotary(*pair) for rope, pair in zip(config.ropes, pairs[:ropes], strict=True)}
        cache = [KVCache(*pair) for pair in pairs[ropes:]]
        result = mirror_model.model(tokens, past, at, rotary, cache, weights, config=config)
        return [a for _, a in flat(result)]

    return export(call, named, opset)


@pytest.mark.parametrize(
    ("make", "opset"),
    [
        (tiny_models.llama, 23),
        pytest.param(odd, 21, marks=pytest.mark.long),
        pytest.param(tiny_models.added_positions, 23, marks=pytest.mark.long),
        pytest.param(tiny_models.mixture, 23, marks=pytest.mark.long),
    ],
)
def test_model_graph(make: Any, opset: int):
    """The whole model on ONNX Runtime: prompt, one token, any past, any number of wanted positions."""
    config = make()
    tree = tiny_models.weights(config)
    model = graph(config, tree, opset)

    @settings(max_examples=20)
    @given(seeds, st.integers(1, 4), st.integers(1, 6), st.integers(0, 7), st.integers(0, 3))
    @example(0, 1, 1, 5, 1)
    @example(1, 2, 1, 0, 1)
    def check(seed: int, b: int, t: int, old: int, p: int) -> None:
        named = inputs(config, seed, b, t, old, p)
        run = lambda change: spec_model.model(  # noqa: E731
            *(change(a) for a in named.values()), change(tree), config=config
        )
        wanted = expected(run, np.float32)
        got = model(*flat_inputs(named).values())
        compare("model", dict(zip(wanted, got, strict=True)), wanted, budget(run))

    check()

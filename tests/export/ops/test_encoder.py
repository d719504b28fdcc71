"""The mirror's encoder, and its decoder that reads one, against the specification: values, then graphs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_models
from helpers.config_strategies import encoders, pairs
from helpers.mirror import OverTensors, over_tensors
from helpers.onnx_graph import TRACED, Graph, export
from helpers.tree_inputs import budget, flat_inputs, quantized, tensor
from helpers.tree_inputs import inputs as decoder_inputs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tfm.export.targets import multi_head_attention
from tfm.export.torch_engine import TorchEngine
from tfm.refimpl.config import (
    Attention,
    Classify,
    Config,
    Dense,
    EmbeddingProjection,
    Encoder,
    EncoderDecoder,
    HeadNorm,
    LayerNorm,
    Learned,
    MaskedLM,
    Plain,
    Pool,
    QuestionAnswering,
    RelativeBias,
    RMSNorm,
    Rope,
    Sinusoidal,
    Tag,
    Window,
)
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.laws.kit.budget import FINE, cast, expected
from tfm.refimpl.laws.kit.results import compare, flat
from tfm.refimpl.ops import block as spec_block
from tfm.refimpl.ops import encoder as spec
from tfm.refimpl.ops import model as spec_model
from tfm.refimpl.ops.cache import KVCache
from tfm.refimpl.ops.position import Rotary
from tfm.refimpl.ops.position_tables import position_tables

mirror, mirror_block, mirror_model = map(OverTensors, (spec, spec_block, spec_model))
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
    tree = quantized(tree, seed) if seed % 3 == 0 else tree
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
    states = rng.standard_normal((b, s, config.embedding.width)).astype(np.float32)
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


@given(encoders(), seeds, few, few)
def test_encoder_block(config: Config, seed: int, b: int, t: int):
    """One layer alone."""
    tree, (_, lengths, tables, _) = tiny_models.weights(config, seed), text(config, seed, b, t).values()
    stack, at = config.stacks["encoder"], np.arange(t)
    x = np.random.default_rng(seed).standard_normal((b, t, config.embedding.width)).astype(np.float32)
    stack_weights = tree["encoder"]
    both = not stack.causal
    dtype = np.dtype(np.float32)
    biases = spec_model.score_biases(at[None], at, stack_weights, dtype, stack=stack, bidirectional=both)
    distances = spec_model.distance_table(at, stack_weights, stack=stack)
    local = spec_model.distance_biases(stack_weights, stack=stack)
    segments = np.random.default_rng(seed).integers(0, 2, (b, t)) if stack.segments else None
    near = spec_block.Positions(tables, biases, distances, distance_biases=local, token_types=segments)
    given_, about = (
        (x, lengths, near, stack_weights["layers"][0]),
        {"config": stack.layers[0], "causal": stack.causal},
    )
    run = lambda change, f=spec_block.encoder_block: f(*map(change, given_), **about)  # noqa: E731
    agree("encoder_block", run, mirror_block.encoder_block)


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


def bert(head: Any) -> Encoder:
    """BERT's form with two more kinds of layers: rotary under a window, and relative biases; a late
    projection."""
    llama = tiny_models.llama(head_size=12, plain=True, bias=True, kind="gelu", qk_norm=True)
    base = llama.stack.layers[0]
    norms = {"pre": None, "after": LayerNorm(1e-5)}
    plain, each = replace(base.attention, position=None, **norms), HeadNorm(LayerNorm(1e-5, False), "each")
    layers = tuple(
        replace(base, scale=0.5, attention=attention, mlp=Plain(40, "gelu", **norms))
        for attention in (
            plain,
            replace(plain, position=Rope(100.0, 8), mask=Window(3), qk_norm=each, clip=0.7),
            replace(plain, position=RelativeBias(8, 20), qk_norm=HeadNorm(RMSNorm(1e-5), "all")),
        )
    )
    stack = replace(
        llama.stack, layers=layers, final_norm=None, positions=Learned(128), first_norm=LayerNorm(1e-5)
    )
    embedding = replace(
        llama.embedding, token_types=2, projection=EmbeddingProjection(48, bias=True, late=True)
    )
    return Encoder(embedding, stack, head, llama.context)


def vaswani() -> EncoderDecoder:
    """An encoder and a decoder with sinusoidal positions, and cross-attention."""
    llama = tiny_models.llama(head_size=12, plain=True, bias=True, kind="relu")
    layer = replace(llama.stack.layers[0], attention=replace(llama.stack.layers[0].attention, position=None))
    cross = replace(layer.attention, heads=4, kv_heads=4)
    encoder = replace(llama.stack, layers=(layer,), positions=Sinusoidal())
    decoder = replace(llama.stack, layers=(replace(layer, cross=cross),) * 2, positions=Sinusoidal())
    return EncoderDecoder(llama.embedding, encoder, decoder, llama.head, llama.context)


def encoder_graph(config: Config, tree: Any, opset: int) -> Graph:
    """`encode` and `predict` as one graph."""
    traced = text(config, 0, TRACED["B"], TRACED["T"])
    axes = {"tokens": ("B", "T"), "types": ("B", "T"), "lengths": ("B",)}
    named = {n: (a, axes.get(n.split(".")[0], ("T", "J"))) for n, a in flat_inputs(traced).items()}
    weights = tensor(tree)

    def call(tokens: Any, lengths: Any, *others: torch.Tensor) -> list[torch.Tensor]:
        *tables, types = others
        pairs = zip(tables[0::2], tables[1::2], strict=True)
        near = {rope: Rotary(*pair) for rope, pair in zip(config.ropes, pairs, strict=True)}
        states = mirror.encode(tokens, lengths, near, weights, types, config=config)
        return [states, mirror.predict(states, lengths, weights, config=config)]

    return export(call, named, opset)


HEADS = (
    MaskedLM(tied=True, dense=Dense("gelu", norm=LayerNorm(1e-5))),
    Classify(5, dense=Dense("tanh")),
    Tag(3),
    QuestionAnswering(),
    Pool("mean", unit=True),
    Pool("max", projections=(Dense("tanh", width=5), Dense(None, bias=False, width=3))),
    Classify(5, "mean", Dense("gelu"), late=True),
    QuestionAnswering(mlp=Plain(24, "gelu_tanh", after=LayerNorm(1e-5))),
)


def graphs() -> list[Any]:
    """Each head, by default the first; opsets 21 and 23 take turns."""
    return [
        pytest.param(head, (21, 23)[turn % 2], marks=[pytest.mark.long] * (turn > 0))
        for turn, head in enumerate(HEADS)
    ]


@pytest.mark.parametrize(("head", "opset"), graphs())
def test_encoder_graph(head: Any, opset: int):
    """A whole encoder with each head on ONNX Runtime: any lengths, one token too."""
    config = bert(head)
    tree = tiny_models.weights(config)
    model = encoder_graph(config, tree, opset)

    @settings(max_examples=20)
    @given(seeds, few, st.integers(1, 6))
    @example(0, 1, 1)
    def check(seed: int, b: int, t: int) -> None:
        ids, lengths, tables, types = text(config, seed, b, t).values()

        def run(change: Any) -> Any:
            states = spec.encode(ids, lengths, *map(change, (tables, tree)), types, config=config)
            return states, spec.predict(states, lengths, change(tree), config=config)

        wanted = expected(run, np.float32)
        got = model(*flat_inputs(text(config, seed, b, t)).values())
        compare("encoder", dict(zip(wanted, got, strict=True)), wanted, budget(run))

    check()


def test_encoder_decoder_graph():
    """Encoder, its keys and values, and one step of the decoder, as one graph."""
    config = vaswani()
    tree = tiny_models.weights(config)
    weights = tensor(tree)

    def given_(seed: int, b: int, s: int, t: int, old: int, p: int) -> dict[str, Any]:
        source = text(config, seed, b, s)
        encoder_inputs = {"source": source["tokens"], "real": source["lengths"]}
        return encoder_inputs | decoder_inputs(config, seed, b, t, old, p)

    def call(source: Any, real: Any, tokens: Any, past: Any, at: Any, *cache: Any) -> list[torch.Tensor]:
        states = mirror.encode(source, real, {}, weights, config=config)
        read = mirror.encoder_kv(states, real, weights, config=config)
        layers = [KVCache(*pair) for pair in zip(cache[0::2], cache[1::2], strict=True)]
        return [
            a for _, a in flat(mirror_model.model(tokens, past, at, {}, layers, weights, read, config=config))
        ]

    axes = {"source": ("B", "S"), "real": ("B",), "tokens": ("B", "T"), "past": ("B",), "at": ("B", "P")}
    traced = flat_inputs(given_(0, *(TRACED[a] for a in "BSTOP")))
    named = {n: (a, axes.get(n.split(".")[0], ("B", "G", "L", "K"))) for n, a in traced.items()}
    model = export(call, named, 23)

    @settings(max_examples=20)
    @given(seeds, few, few, few, st.integers(0, 4), st.integers(1, 3))
    @example(0, 1, 1, 1, 3, 1)
    def check(seed: int, b: int, s: int, t: int, old: int, p: int) -> None:
        named = given_(seed, b, s, t, old, p)

        def run(change: Any) -> Any:
            source, real, *others = map(change, named.values())
            states = spec.encode(source, real, {}, change(tree), config=config)
            read = spec.encoder_kv(states, real, change(tree), config=config)
            return spec_model.model(*others, change(tree), read, config=config)

        wanted = expected(run, np.float32)
        got = model(*flat_inputs(named).values())
        compare("encoder-decoder", dict(zip(wanted, got, strict=True)), wanted, budget(run))

    check()

"""Laws of the whole model in float64, over any Config: splits, padding, neighbours, cuts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.config_strategies import configs
from helpers.refused import refused
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import Config, Decoder, Learned, RMSNorm, Yarn
from tfm.refimpl.engine.cache_kinds import cache_kinds, recurrent
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ConfigError, LimitError, TfmError
from tfm.refimpl.ops.activation import activation
from tfm.refimpl.ops.cache import KVCache
from tfm.refimpl.ops.model import model
from tfm.refimpl.ops.norm import normalize
from tfm.refimpl.ops.position import Rotary
from tfm.refimpl.ops.position_tables import position_tables
from tfm.refimpl.params.tree import flatten

seeds = st.integers(0, 2**32 - 1)
# Two passes of one model in float64: norms of tiny vectors and softcaps amplify rounding.
MODEL = 1e-8


def engine(config: Config) -> NumpyEngine:
    return NumpyEngine(config, tiny_models.weights(config, dtype=np.float64))


def tokens(seed: int, config: Config, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.embedding.vocabulary, shape)


def every(batch: int, time: int) -> np.ndarray:
    return np.broadcast_to(np.arange(time), (batch, time))


def logits_at_once(numpy: NumpyEngine, ids: np.ndarray) -> np.ndarray:
    """Logits of all positions in one pass."""
    return numpy.step(ids, numpy.start(len(ids)), at=every(*ids.shape))[0]


@given(configs(), seeds, st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_any_split_of_the_tokens_is_one_pass(config: Config, seed: int, chunks: list[int]):
    """One pass, chunks, and single tokens agree, for every position scheme and mask."""
    numpy = engine(config)
    ids = tokens(seed, config, 2, sum(chunks))
    expected = logits_at_once(numpy, ids)
    for sizes in (chunks, [1] * sum(chunks)):
        cache, at, results = numpy.start(2), 0, []
        for size in sizes:
            logits, cache = numpy.step(ids[:, at : at + size], cache, at=every(2, size))
            results.append(logits)
            at += size
        equal(np.concatenate(results, 1), expected, MODEL)
        assert cache.lengths.tolist() == [at, at]


@given(configs(), seeds, st.lists(st.integers(1, 5), min_size=2, max_size=3))
def test_padding_and_other_rows_change_nothing(config: Config, seed: int, lengths: list[int]):
    """A row of a batch, padded on the right, equals the row alone, also in later steps."""
    numpy, time = engine(config), max(lengths)
    ids, more = tokens(seed, config, len(lengths), time), tokens(seed + 1, config, len(lengths), 2)
    first, cache = numpy.step(ids, numpy.start(len(lengths)), np.array(lengths))
    second, cache = numpy.step(more, cache, at=every(len(lengths), 2))
    assert cache.lengths.tolist() == [n + 2 for n in lengths]
    for row, n in enumerate(lengths):
        alone = logits_at_once(numpy, np.concatenate([ids[row, :n], more[row]])[None])[0]
        equal(first[row, 0], alone[n - 1], MODEL)
        equal(second[row], alone[n:], MODEL)


@given(configs(), seeds, st.integers(1, 5), st.integers(0, 5))
def test_a_truncated_cache_equals_a_shorter_one(config: Config, seed: int, time: int, cut: int):
    numpy, cut = engine(config), min(cut, time)
    ids, more = tokens(seed, config, 2, time), tokens(seed + 1, config, 2, 3)
    _, cache = numpy.step(ids, numpy.start(2))
    if recurrent(cache_kinds(config)) and 0 < cut < time:
        with pytest.raises(LimitError, match=f" {time} .*got {cut}: .*(state|convolution)"):
            cache.truncate(np.array([cut, time]))
        cut = 0
    cache = cache.truncate(np.array([cut, time]))
    logits, _ = numpy.step(more, cache, at=every(2, 3))
    for row, n in enumerate((cut, time)):
        equal(
            logits[row], logits_at_once(numpy, np.concatenate([ids[row, :n], more[row]])[None])[0, n:], MODEL
        )


@given(configs(), seeds, st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_selected_rows_continue_unchanged(config: Config, seed: int, rows: list[int]):
    numpy = engine(config)
    ids, more = tokens(seed, config, 3, 4), tokens(seed + 1, config, 3, 1)
    _, cache = numpy.step(ids, numpy.start(3), np.array([4, 2, 3]))
    expected, _ = numpy.step(more, cache)
    _, cache = numpy.step(ids, numpy.start(3), np.array([4, 2, 3]))
    cache = cache.select(np.array(rows))
    got, cache = numpy.step(more[rows], cache)
    equal(got, expected[rows], MODEL)
    assert cache.lengths.tolist() == [[5, 3, 4][r] for r in rows]


@given(configs(), seeds)
def test_the_future_is_not_seen(config: Config, seed: int):
    """Logits at a position depend on the tokens up to it."""
    numpy, ids = engine(config), tokens(seed, config, 1, 6)
    other = ids.copy()
    other[:, 3:] = tokens(seed + 1, config, 1, 3)
    equal(logits_at_once(numpy, other)[:, :3], logits_at_once(numpy, ids)[:, :3], MODEL)


def test_a_model_is_its_formula():
    """One layer written out, so that residuals, norms and scales stand where the Config says."""
    config = tiny_models.llama(layers=1, head_size=16, heads=1, kv_heads=1, width=16)
    tree = tiny_models.weights(config, dtype=np.float64)
    leaf = dict(flatten(tree))
    ids = np.array([[3, 5]])
    rms = lambda x, w: x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w  # noqa: E731
    table = leaf["embedding.table"]
    x = table[ids[0]]
    at = "decoder.layers.0."
    h = rms(x, leaf[at + "attn_pre.weight"])
    q, k, v = (h @ leaf[at + f"attn.{n}"] for n in ("wq", "wk", "wv"))
    turns = np.arange(2)[:, None] * 10_000.0 ** (-np.arange(8) / 8)
    cos, sin = np.cos(turns), np.sin(turns)
    half = lambda a: np.concatenate([-a[:, 8:], a[:, :8]], 1)  # noqa: E731
    turn = lambda a: a * np.tile(cos, 2) + half(a) * np.tile(sin, 2)  # noqa: E731
    scores = np.exp(turn(q) @ turn(k).T / 4) * np.tri(2)
    x = x + scores / scores.sum(1, keepdims=True) @ v @ leaf[at + "attn.wo"]
    h = rms(x, leaf[at + "mlp_pre.weight"])
    gate = h @ leaf[at + "mlp.gate"]
    x = x + (gate / (1 + np.exp(-gate)) * (h @ leaf[at + "mlp.up"])) @ leaf[at + "mlp.down"]
    logits = rms(x, leaf["decoder.norm.weight"]) @ table.T
    equal(logits_at_once(NumpyEngine(config, tree), ids)[0], logits)


@pytest.mark.parametrize("count", [1, 3])
def test_each_layer_has_its_cache(count: int):
    config = tiny_models.llama(layers=2)
    one = KVCache(np.zeros((1, 2, 1, 16)), np.zeros((1, 2, 1, 16)))
    tables, ids = position_tables(np.arange(1), config=config), np.array([[1]])
    weights: Any = tiny_models.weights(config)
    with pytest.raises(ValueError, match="zip"):
        model(ids, np.array([0]), ids * 0, tables, [one] * count, weights, config=config)


@pytest.mark.parametrize(
    ("factor", "stated", "magnitude"), [(4.0, None, 1 + 0.1 * math.log(4)), (0.5, None, 1), (4.0, 1.3, 1.3)]
)
def test_magnitude_of_yarn(factor: float, stated: float | None, magnitude: float):
    """Where none is stated it is 0.1 ln(factor) + 1, and 1 for a factor below 1."""
    config = tiny_models.llama()
    layer = config.layers[0]
    rope = replace(layer.attention.position, scaling=Yarn(factor, 64, magnitude=stated))
    layer = replace(layer, attention=replace(layer.attention, position=rope))
    config = replace(config, stack=replace(config.stack, layers=(layer,)))
    cos, sin = position_tables(np.array([0, 77]), config=config)[rope]
    equal(np.hypot(cos, sin), np.full(cos.shape, magnitude))


def test_position_tables_are_of_each_rope():
    config = tiny_models.llama()
    tables = position_tables(np.arange(4), config=config)
    assert list(tables) == list(config.ropes)
    cos, sin = tables[config.ropes[0]]
    assert cos.shape == (4, 8)
    assert (cos.dtype, sin.dtype) == (np.float64, np.float64)
    equal(cos**2 + sin**2, np.ones((4, 8)))


def test_float32_stays_float32():
    """No operation of a float32 model is done in float64, which would be slow and untrue."""
    for config in (
        tiny_models.llama(qk_norm=True, bias=True),
        tiny_models.llama(plain=True, window=3, tied=False),
    ):
        numpy = NumpyEngine(config, tiny_models.weights(config))
        logits, cache = numpy.step(np.array([[1, 2]]), numpy.start(1))
        assert logits.dtype == np.float32
        assert {a.dtype for layer in cache.take() for a in (layer.keys, layer.values)} == {
            np.dtype(np.float32)
        }


def test_an_unknown_activation_gives_nothing():
    """from_json refuses names outside the Literal, so the match needs no other case."""
    assert activation(np.zeros((1, 1, 1)), kind="selu") is None  # pyright: ignore[reportArgumentType]


def test_no_norm_is_the_identity():
    x = np.ones((1, 1, 2))
    assert normalize(x, None, norm=None) is x
    assert normalize(x, {"weight": np.ones(2)}, norm=RMSNorm(1e-5)) is not x


def numpy_engine() -> NumpyEngine:
    config = tiny_models.llama(layers=1, context=8)
    return NumpyEngine(config, tiny_models.weights(config))


@pytest.mark.parametrize(
    ("ids", "lengths", "at", "words"),
    [
        ([1, 2], None, None, "tokens 1 T 1 shape 2,"),
        ([[1], [2]], None, None, "tokens 1 T 1"),
        (np.zeros((1, 0)), None, None, "tokens 1 T 1"),
        ([[1, 97]], None, None, "ids 0 96 1 97"),
        ([[-1, 2]], None, None, "ids 0 96 -1 2"),
        ([[1, 2]], [3], None, "lengths 1 0 2 [3]"),
        ([[1, 2]], [-1], None, "lengths"),
        ([[1, 2]], [1, 1], None, "lengths"),
        ([[0] * 9], None, None, "9 context 8"),
        ([[1, 2]], None, [[2]], "1 P 0 1 2"),
        ([[1, 2]], None, [[-1]], "1 P 0 1"),
        ([[1, 2]], None, [1], "1 P 0 1"),
    ],
)
def test_step_refuses(ids: object, lengths: object, at: object, words: str):
    numpy = numpy_engine()
    as_array = lambda a: None if a is None else np.asarray(a)  # noqa: E731
    with refused(LimitError, *words.split()):
        numpy.step(np.asarray(ids), numpy.start(1), as_array(lengths), as_array(at))


def test_the_context_is_the_limit():
    numpy = numpy_engine()
    _, cache = numpy.step(np.zeros((1, 8), np.int64), numpy.start(1))
    assert cache.capacity >= 8
    with refused(LimitError, 9, "context", 8):
        numpy.step(np.array([[1]]), cache)


def test_a_cache_is_used_once():
    numpy = numpy_engine()
    cache = numpy.start(1)
    numpy.step(np.array([[1]]), cache)
    for again in (
        lambda: numpy.step(np.array([[1]]), cache),
        lambda: cache.truncate(np.array([0])),
        lambda: cache.select(np.array([0])),
    ):
        with refused(TfmError, "cache", "already"):
            again()


@pytest.mark.parametrize("lengths", [[3], [-1], [1, 1]])
def test_truncate_refuses(lengths: list[int]):
    numpy = numpy_engine()
    _, cache = numpy.step(np.array([[1, 2]]), numpy.start(1))
    with refused(LimitError, "lengths", "[2]"):
        cache.truncate(np.array(lengths))


@pytest.mark.parametrize("rows", [[1], [-1], [], [[0]]])
def test_select_refuses(rows: list):
    with refused(LimitError, "rows", 0, 0):
        numpy_engine().start(1).select(np.array(rows))


def test_unused_at_position_costs_no_logits():
    """`at` picks positions, in any order and repeatedly."""
    config = tiny_models.llama()
    numpy = engine(config)
    ids = tokens(0, config, 1, 5)
    every_one = logits_at_once(numpy, ids)
    got, _ = numpy.step(ids, numpy.start(1), at=np.array([[4, 0, 4]]))
    equal(got, every_one[:, [4, 0, 4]])
    none, _ = numpy.step(ids, numpy.start(1), at=np.zeros((1, 0)))
    assert none.shape == (1, 0, 97)


def test_model_keeps_its_cache_argument():
    """The specification copies its cache: the argument stays as it was."""
    config = tiny_models.llama(layers=1)
    tree = tiny_models.weights(config)
    cache = [KVCache(np.zeros((1, 2, 3, 16), np.float32), np.zeros((1, 2, 3, 16), np.float32))]
    tables = {
        r: Rotary(*(a.astype(np.float32) for a in t))
        for r, t in position_tables(np.arange(3), config=config).items()
    }
    _, (new,) = model(np.array([[1, 2]]), np.array([1]), np.array([[1]]), tables, cache, tree, config=config)
    assert isinstance(new, KVCache)
    assert not cache[0].keys.any()
    assert new.keys[:, :, 1:].any()


modules = st.sampled_from(sorted(tiny_models.MODULES)).map(lambda name: tiny_models.MODULES[name]())


@given(modules, seeds, st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_module_reads_the_vectors_before_the_head(config: Decoder, seed: int, chunks: list[int]):
    """The vectors are those that the head maps; pairs in chunks are pairs at once; none sees a later one."""
    numpy = engine(config)
    ids = tokens(seed, config, 1, sum(chunks) + 1)
    logits, hidden, _ = numpy.step_with_hidden(ids, numpy.start(1), at=every(*ids.shape))
    equal(logits, logits_at_once(numpy, ids), MODEL)
    table = numpy.params["embedding" if config.head.tied else "head"]["table"]
    equal(hidden @ table.T, logits, MODEL)
    expected, vectors, whole = numpy.step_mtp(ids[:, 1:], hidden[:, :-1], numpy.start_mtp())
    cache, at, parts, last = numpy.start_mtp(), 0, [], None
    for size in chunks:
        end = at + size
        last, part, cache = numpy.step_mtp(ids[:, at + 1 : end + 1], hidden[:, at:end], cache)
        parts.append(part)
        at = end
    equal(np.concatenate(parts, 1), vectors, MODEL)
    equal(last, expected, MODEL)
    assert whole.lengths.tolist() == cache.lengths.tolist() == [sum(chunks)]
    first = chunks[0]
    early, _, cut = numpy.step_mtp(ids[:, 1 : first + 1], hidden[:, :first], numpy.start_mtp())
    equal(early[:, -1], vectors[:, first - 1] @ table.T, MODEL)
    assert cut.lengths.tolist() == [first]


def test_a_module_must_fit_its_decoder():
    """A layer of another kind, without keys of its own, and vectors to which something is added."""
    config = tiny_models.MODULES["attention"]()
    assert config.mtp is not None
    layer, attention = config.mtp.layer, config.mtp.layer.attention
    other = replace(config.mtp, layer=replace(layer, attention=replace(attention, out_bias=False)))
    with refused(ConfigError, "layer", "decoder"):
        replace(config, mtp=other)
    deltas = tiny_models.gated_deltas()
    with refused(ConfigError, "attention", "keys"):
        replace(deltas, mtp=replace(config.mtp, layer=deltas.layers[-1]))
    with refused(ConfigError, "nothing"):
        replace(config, stack=replace(config.stack, positions=Learned(128)))
    with refused(ConfigError, "multi-token", "prediction"):
        engine(tiny_models.llama()).start_mtp()

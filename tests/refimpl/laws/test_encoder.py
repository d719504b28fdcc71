"""Laws of whole encoders, and of decoders that read one, in float64, over any Config."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import tiny_models
from helpers.config_strategies import encoders, pairs
from helpers.refused import refused
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import (
    LM,
    Attention,
    Classify,
    Config,
    Encoder,
    FullAttention,
    Learned,
    MaskedLM,
    Pool,
    TokenMixer,
)
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import ConfigError, LimitError
from tfm.refimpl.ops.convbert import ConvBertAttention
from tfm.refimpl.ops.disentangled import DisentangledAttention
from tfm.refimpl.ops.longformer import LongformerAttention
from tfm.refimpl.ops.longt5 import LongT5Attention
from tfm.refimpl.ops.mobilebert import MobileBertBottleneck
from tfm.refimpl.ops.xlnet import XLNetAttention

seeds = st.integers(0, 2**32 - 1)
# Two passes of one model in float64: norms of tiny vectors and softcaps amplify rounding.
MODEL = 1e-8


def engine(config: Config, dtype: type = np.float64) -> NumpyEngine:
    return NumpyEngine(config, tiny_models.weights(config, dtype=dtype))


def tokens(seed: int, config: Config, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.embedding.vocabulary, shape)


def unplaced(config: Config) -> Encoder:
    """The encoder without anything that depends on order."""
    assert not isinstance(config.head, LM)
    stack = config.stacks["encoder"]

    def bare_attention(attention: TokenMixer) -> Attention:
        if isinstance(attention, DisentangledAttention):  # without its terms of the distance
            a = attention
            return Attention(a.heads, a.heads, a.head_size, pre=a.pre, post=a.post, after=a.after)
        # Without its window, its terms of distance and segment, its kernels, or its narrow vectors.
        others = LongformerAttention, LongT5Attention, XLNetAttention, ConvBertAttention, MobileBertBottleneck
        if isinstance(attention, others):
            a = attention
            return Attention(a.heads, a.heads, a.head_size, pre=a.pre, post=a.post, after=a.after)
        assert isinstance(attention, Attention)
        norm = attention.qk_norm and replace(attention.qk_norm, rotated=False, weight=True)
        return replace(attention, position=None, mask=FullAttention(), qk_norm=norm, query_scale=None)

    layers = tuple(
        replace(layer, attention=bare_attention(layer.attention), conv=None) for layer in stack.layers
    )
    bare = replace(stack, layers=layers, positions=None, norm_before_positions=False, causal=False)
    embedding = config.embedding
    if embedding.projection is not None:
        embedding = replace(embedding, projection=replace(embedding.projection, trigram=False))
    return Encoder(embedding, bare, config.head, config.context)


@given(encoders(), seeds, st.permutations(range(3)))
def test_without_positions_the_order_does_not_matter(config: Config, seed: int, order: list[int]):
    """Each word's vector is the same, wherever the word is."""
    numpy = engine(unplaced(config))
    ids = tokens(seed, config, 2, 3)
    equal(numpy.encode(ids[:, order]), numpy.encode(ids)[:, order], MODEL)


def test_with_positions_the_order_counts():
    """For each kind the same words in another order have other vectors (in reverse order, ALiBi's don't)."""
    base = tiny_models.encoder(positions=None)
    layer = base.stack.layers[0]
    for position, stack in tiny_models.positions(layer.attention.head_size):
        attention = replace(layer.attention, position=position)
        placed_stack = replace(base.stack, layers=(replace(layer, attention=attention),), positions=stack)
        numpy = engine(replace(base, stack=placed_stack))
        one, other = numpy.encode(np.array([[1, 2, 3]])), numpy.encode(np.array([[2, 1, 3]]))
        assert np.abs(one - other[:, [1, 0, 2]]).max() > 1e-3, f"{position} {stack} don't tell an order"


@given(encoders(), seeds, st.lists(st.integers(1, 5), min_size=2, max_size=3))
def test_padding_and_other_rows_change_nothing(config: Config, seed: int, lengths: list[int]):
    """A row of a batch, padded on the right, equals the row alone: its vectors, and the head's output."""
    numpy, ids = engine(config), tokens(seed, config, len(lengths), max(lengths))
    types = None
    if config.embedding.token_types is not None:
        types = np.random.default_rng(seed).integers(0, config.embedding.token_types, ids.shape)
    states, predictions = (f(ids, np.array(lengths), types) for f in (numpy.encode, numpy.predict))
    for row, n in enumerate(lengths):
        alone = ids[row : row + 1, :n], None, None if types is None else types[row : row + 1, :n]
        equal(states[row, :n], numpy.encode(*alone)[0], MODEL)
        whole_text = isinstance(config.head, Classify | Pool)
        equal(predictions[row] if whole_text else predictions[row, :n], numpy.predict(*alone)[0], MODEL)


@given(pairs(), seeds, st.lists(st.integers(1, 3), min_size=1, max_size=3))
def test_any_split_of_the_tokens_is_one_pass(config: Config, seed: int, chunks: list[int]):
    """In a decoder that reads an encoder: one step, chunks, and single tokens agree."""
    numpy, total = engine(config), sum(chunks)
    source, ids = tokens(seed, config, 2, 4), tokens(seed + 1, config, 2, total)
    every = np.broadcast_to(np.arange(total), (2, total))
    expected, _ = numpy.step(ids, numpy.start(2, source, np.array([4, 2])), at=every)
    for sizes in (chunks, [1] * total):
        cache, at, results = numpy.start(2, source, np.array([4, 2])), 0, []
        for size in sizes:
            logits, cache = numpy.step(ids[:, at : at + size], cache, at=every[:, :size])
            results.append(logits)
            at += size
        equal(np.concatenate(results, 1), expected, MODEL)


@given(pairs(), seeds, st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_rows_keep_their_encoder_text(config: Config, seed: int, rows: list[int]):
    """Selected, truncated where it can be, or alone: each row reads its own text on, without padding."""
    numpy, lengths = engine(config), np.array([3, 1, 2])
    source, ids, more = (tokens(seed + i, config, 3, n) for i, n in enumerate((3, 4, 2)))
    every = np.broadcast_to(np.arange(2), (len(rows), 2))
    _, cache = numpy.step(ids, numpy.start(3, source, lengths))
    cache = cache.select(np.array(rows))
    kept = np.maximum(cache.floor, 3)  # the state of a recurrence can't go back
    got, _ = numpy.step(more[rows], cache.truncate(kept), at=every)
    for at, row in enumerate(rows):
        one = source[row : row + 1, : lengths[row]]
        text = np.concatenate([ids[row, : kept[at]], more[row]])[None]
        alone, _ = numpy.step(text, numpy.start(1, one), at=kept[at] + np.array([[0, 1]]))
        equal(got[at], alone[0], MODEL)


def norm(x: np.ndarray, tree: dict) -> np.ndarray:
    scaled = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return scaled * tree["weight"] + tree["bias"]


def test_an_encoder_is_its_formula():
    """One post-norm layer written out, with its sums, norms, positions and token types."""
    config = tiny_models.encoder(layers=1, heads=1, head_size=16, width=16, vocabulary=11)
    numpy = engine(config)
    tree = numpy.params
    e, s = tree["embedding"], tree["encoder"]
    x = norm(e["table"][[3, 5]] + e["token_types"][[0, 1]] + s["positions"][:2], s["first_norm"])
    layer = s["layers"][0]
    q, k, v = (x @ layer["attn"][f"w{n}"] + layer["attn"][f"b{n}"] for n in "qkv")
    weights = np.exp(q @ k.T / 4)
    mixed = weights / weights.sum(-1, keepdims=True) @ v @ layer["attn"]["wo"] + layer["attn"]["bo"]
    h = norm(x + mixed, layer["attn_after"])
    hidden = np.maximum(h @ layer["mlp"]["up"] + layer["mlp"]["bup"], 0)
    y = norm(h + hidden @ layer["mlp"]["down"] + layer["mlp"]["bdown"], layer["mlp_after"])
    equal(numpy.encode(np.array([[3, 5]]), token_types=np.array([[0, 1]]))[0], y)
    head = tree["head"]
    z = norm(np.tanh(y @ head["dense"]["weight"] + head["dense"]["bias"]), head["norm"])
    equal(
        numpy.predict(np.array([[3, 5]]), token_types=np.array([[0, 1]]))[0], z @ e["table"].T + head["bias"]
    )


def test_float32_stays_float32():
    """No operation of a float32 model is done in float64."""
    base = tiny_models.encoder()
    for position, positions in tiny_models.positions(base.stack.layers[0].attention.head_size):
        layer = base.stack.layers[0]
        layer = replace(layer, attention=replace(layer.attention, position=position))
        stack = replace(base.stack, layers=(layer,), positions=positions)
        for head in (base.head, Pool(unit=True), Classify(3, "max")):
            numpy = engine(replace(base, stack=stack, head=head), np.float32)
            assert numpy.encode(np.array([[1, 2]])).dtype == np.float32, f"{position} {positions}"
            assert numpy.predict(np.array([[1, 2]])).dtype == np.float32, f"{head}"


def test_wrong_models_for_step_and_start():
    ids = np.array([[1, 2]])
    encoder, decoder = engine(tiny_models.encoder()), engine(tiny_models.llama())
    both = engine(tiny_models.encoder_decoder())
    with refused(ConfigError, "decoder"):
        encoder.start(1)
    with refused(ConfigError, "encoder"):
        decoder.encode(ids)
    with refused(ConfigError, "decoder", "predicts"):
        both.predict(ids)
    with refused(ConfigError, "start", "encoder_ids", "some"):
        decoder.start(1, ids)
    with refused(ConfigError, "start", "encoder_ids", "no"):
        both.start(1)
    with refused(LimitError, "encoder_ids", 2, 1):
        both.start(2, ids)


@pytest.mark.parametrize(
    ("ids", "lengths", "types", "message"),
    [
        ([[1, 97]], None, None, "ids 0 96"),
        ([[1] * 33], None, None, "33 context 32"),
        ([[1, 2]], [3], None, "lengths"),
        ([[1, 2]], None, [[0, 2]], "token_types [1, 2] 0 1 [[0, 2]]"),
        ([[1, 2]], None, [[0, -1]], "token_types [[0, -1]]"),
        ([[1, 2]], None, [[0]], "token_types [[0]]"),
    ],
)
def test_encode_refuses(ids: list, lengths: list | None, types: list | None, message: str):
    numpy = engine(tiny_models.encoder())
    with refused(LimitError, *message.split()):
        numpy.encode(np.array(ids), lengths and np.array(lengths), types and np.array(types))


def test_without_token_types():
    with refused(LimitError, "token_types", 0, "-1"):
        engine(replace(tiny_models.encoder(), embedding=tiny_models.Embedding(97, 48))).encode(
            np.array([[1]]), None, np.array([[0]])
        )


def test_learned_positions_end_where_padding_may_stand():
    """A padded row reaches past the table; its real tokens don't."""
    config = tiny_models.encoder()
    assert isinstance(config.stack.positions, Learned)
    llama = tiny_models.llama(context=8)
    config = replace(llama, stack=replace(llama.stack, positions=Learned(8)))
    numpy = engine(config)
    _, cache = numpy.step(np.ones((2, 6), np.int64), numpy.start(2))
    logits, _ = numpy.step(np.ones((2, 4), np.int64), cache, np.array([2, 1]))
    assert np.isfinite(logits).all()


def test_heads_without_weights_of_their_own():
    """Pool may have no leaf at all, MaskedLM only the shared table."""
    for head in (Pool("first"), MaskedLM(tied=True, bias=False)):
        config = replace(tiny_models.encoder(), head=head)
        numpy = engine(config)
        assert "head" not in numpy.params
        outputs = numpy.predict(np.array([[1, 2]]))
        expected = numpy.encode(np.array([[1, 2]]))
        equal(
            outputs,
            expected[:, 0] if isinstance(head, Pool) else expected @ numpy.params["embedding"]["table"].T,
        )

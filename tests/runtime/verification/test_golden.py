"""Golden inputs: outputs of the specification, run layer by layer, and budgets that correct engines keep."""

import dataclasses
import hashlib

import numpy as np
import pytest
from helpers import text_strategies, tiny_models
from helpers.refused import refused
from tfm.refimpl.config import (
    CTC,
    LM,
    Classify,
    Config,
    Decoder,
    Dense,
    Embedding,
    EmbeddingProjection,
    Pool,
    QuestionAnswering,
)
from tfm.refimpl.engine.cache_kinds import cache_kinds
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.engine.passes import noise
from tfm.refimpl.error_budget import TRIES, largest_difference, rounded_up
from tfm.refimpl.errors import BundleError
from tfm.refimpl.ops.quant import Blocks, quantize
from tfm.refimpl.params.shapes import multiplied, parameter_shapes
from tfm.refimpl.params.tree import flatten, map_leaves
from tfm.runtime.text.tokenizer import Tokenizer
from tfm.runtime.verification import golden as module
from tfm.runtime.verification import streamed_reference
from tfm.runtime.verification.checks.text import window_of_text
from tfm.runtime.verification.golden import Expected, Golden, golden, read, rms
from tfm.runtime.verification.leaf_digest import digest
from tfm.runtime.verification.streamed_reference import Inputs, Precision, outputs

CONFIGS = {
    "llama": tiny_models.llama(),
    "everything": tiny_models.llama(window=3, tied=False, bias=True, qk_norm=True),
    "plain": tiny_models.llama(plain=True, kind="gelu"),
    "short": tiny_models.llama(context=1),
    "added": tiny_models.added_positions(),
    "mixture": tiny_models.mixture(),
    "rare": tiny_models.rare(),
    "codes": tiny_models.llama(qk_norm=True).with_kv("int8"),
    "late": dataclasses.replace(
        tiny_models.llama(), embedding=Embedding(97, 48, projection=EmbeddingProjection(24, late=True))
    ),
    "encoder": tiny_models.encoder(),
    "classify": tiny_models.encoder(head=Classify(3, "mean", Dense("gelu"))),
    "answer": tiny_models.encoder(positions=None, head=QuestionAnswering()),
    "pool": tiny_models.encoder(head=Pool("mean", unit=True)),
    "pair": tiny_models.encoder_decoder(),
    "hearing": tiny_models.hearing(),
    "spelling": tiny_models.spelling(),
    "writing": tiny_models.writing(),
}


def quantized(config: Config, tree: dict, activations: str = "block", bits: int = 8) -> dict:
    products = multiplied(config)

    def leaf(name: str, value: np.ndarray) -> np.ndarray | Blocks:
        if name not in products:
            return value
        axis = 1 if name.endswith("table") else 0
        return quantize(value, bits=bits, block=32, axis=axis, activations=activations)

    return map_leaves(leaf, tree)


def run(engine: NumpyEngine, given: Inputs | Golden) -> np.ndarray:
    if not isinstance(engine.config.head, LM):
        read = given.tokens if given.encoder_ids is None else given.encoder_ids
        return engine.predict(read, given.lengths, given.token_types)
    at = np.tile(np.arange(given.tokens.shape[1]), (len(given.tokens), 1))
    cache = engine.start(len(given.tokens), given.encoder_ids, given.encoder_lengths)
    return engine.step(given.tokens, cache, at=at)[0]


def make_inputs(config: Config, time: int) -> Inputs:
    """Two rows of tokens, the second padded, and an encoder's where there is one."""
    rng = np.random.default_rng(1)
    ids, lengths = rng.integers(0, 97, (2, 2, time)), np.array([time, max(1, time - 2)])
    if isinstance(config, Decoder):
        return Inputs(ids[0], lengths)
    if isinstance(config.head, CTC):
        heard = np.full(2, time)
        return Inputs(ids[0], heard, noise(config, rng, 2, time), heard)
    if not isinstance(config.head, LM):
        return Inputs(ids[0], lengths, token_types=ids[1] % 2)
    if config.sound_shape is not None:
        sound = noise(config, rng, 2, time)
        return Inputs(ids[0], lengths, sound, np.full(2, config.positions(sound.shape[1])))
    return Inputs(ids[0], lengths, ids[1], lengths[::-1])


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("activations", [None, "none", "block"])
def test_a_correct_engine_stays_within_the_budget(name, activations):
    config, tree = CONFIGS[name], tiny_models.weights(CONFIGS[name])
    own = None if activations is None else quantized(config, tree, activations)
    shares: list[float] = []
    arrays = golden(config, tree, own, progress=lambda stage, done, total: shares.append(done / total))
    held = read(arrays, config)
    assert shares == sorted(set(shares))
    assert (shares[0], shares[-1]) == (0, 1)
    engine = NumpyEngine(config, tree if own is None else own)
    logits = held.real(run(engine, held))
    found = held.view(logits)
    assert 0 < largest_difference(found, held.own.logits) <= held.own.budget
    assert rms(found, held.own.logits) <= held.own.rms_budget
    assert (held.plain is not None) == (activations == "block")
    sharp = name != "codes"  # codes of the cache can flip in any run
    if activations != "block":
        assert (held.own.budget < 1e-4) == sharp
    elif held.plain is not None:
        assert (held.plain.budget < 1e-4) == sharp
        assert held.own.budget > 1e-4
    assert (own is None) == np.array_equal(held.floats, held.own.logits)
    assert np.array_equal(held.best[:, 0], logits.argmax(-1))
    first_two = np.sort(logits, axis=-1)[:, -2:]
    assert np.abs(held.gap - (first_two[:, -1] - first_two[:, 0])).max() <= 2 * held.own.budget


def test_rows_of_a_decoder_begin_as_its_texts_do():
    """Its tokenizer puts a token before a text. Encoders, and contexts of one token, have the text alone."""
    made = text_strategies.byte_level()
    begin, text = made.token_to_id("<s>"), made.encode(module.TEXT, add_special_tokens=False).ids
    for config, before in (
        (tiny_models.llama(vocabulary=420), [begin]),
        (tiny_models.llama(vocabulary=420, context=1), []),
        (tiny_models.encoder(vocabulary=420), []),
    ):
        tokens = golden(config, tiny_models.weights(config), tokenizer=made.to_str())["tokens"]
        room = min(module.TOKENS, config.context) - len(before)
        assert tokens.tolist() == [before + text[:room], before + text[room : 2 * room]]
        assert window_of_text(config, Tokenizer(made.to_str(), 420)) == (config.context, before)


def test_half_is_what_a_cache_of_float16_changes():
    config = tiny_models.llama()
    tree = tiny_models.weights(config)
    held = read(golden(config, tree, halved="cache"), config)
    assert held.half is not None
    logits = []
    for half in (False, True):
        engine = NumpyEngine(config, tiny_models.weights(config, dtype=np.float64))
        engine.kinds = cache_kinds(config, half=half)
        logits.append(held.real(run(engine, held)))
    for stated, distance in zip(held.half, (largest_difference, rms), strict=True):
        assert stated == pytest.approx(distance(*logits), rel=0.01)
    wider = held.with_half_cache.own
    for budget, own, moves in zip(
        (wider.budget, wider.rms_budget), (held.own.budget, held.own.rms_budget), held.half, strict=True
    ):
        assert budget == pytest.approx(own + 4 * moves)


@pytest.mark.parametrize("vocabulary", [97, 700])
def test_divergence_is_that_of_the_stored_columns(vocabulary):
    config = tiny_models.llama(vocabulary=vocabulary)
    tree = tiny_models.weights(config)
    held = read(golden(config, tree, quantized(config, tree, bits=4)), config)
    outputs = held.real(run(NumpyEngine(config, quantized(config, tree, bits=4)), held))
    exact = held.real(run(NumpyEngine(config, tiny_models.weights(config, dtype=np.float64)), held))
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (exact, outputs.astype(np.float64)))
    whole = (p * np.log(p / q)).sum(-1).mean()
    if vocabulary > 256:  # all others count as one
        others = np.setdiff1d(np.arange(vocabulary), held.columns)
        p, q = (np.append(x[:, held.columns], x[:, others].sum(-1, keepdims=True), axis=1) for x in (p, q))
    stored = (p * np.log(p / q)).sum(-1).mean()
    assert held.kl(outputs) == pytest.approx(stored, rel=1e-6)
    assert 0 < stored <= whole * (1 + 1e-9)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_streamed_run_equals_the_model(name, monkeypatch):
    """Both in float64, they differ only by the order of sums; the output table is cut into three parts."""
    monkeypatch.setattr(streamed_reference, "ROWS", 40)
    config, tree = CONFIGS[name], tiny_models.weights(CONFIGS[name], dtype=np.float64)
    given = make_inputs(config, min(7, config.context))
    (found,) = outputs(config, tree, given, [Precision(np.dtype(np.float64))])
    assert np.allclose(found, run(NumpyEngine(config, tree), given), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "name", ["everything", "added", "mixture", "rare", "late", "encoder", "classify", "pair"]
)
def test_each_leaf_is_observed_once(name):
    config = CONFIGS[name]
    observed = []
    outputs(
        config,
        tiny_models.weights(config),
        make_inputs(config, 2),
        [Precision(np.dtype(np.float32))],
        lambda leaf, _: observed.append(leaf),
    )
    assert sorted(observed) == sorted(parameter_shapes(config))


def test_a_wrong_eps_exceeds_the_budgets():
    """An engine whose eps is ten times too large exceeds the largest and the RMS budget."""
    config, tree = tiny_models.llama(), tiny_models.weights(tiny_models.llama())
    held = read(golden(config, tree), config)
    layer = config.layers[0]
    wrong = dataclasses.replace(
        layer, attention=dataclasses.replace(layer.attention, pre=tiny_models.RMSNorm(1e-4))
    )
    stack = dataclasses.replace(config.stack, layers=(wrong, *config.layers[1:]))
    engine = NumpyEngine(dataclasses.replace(config, stack=stack), tree)
    found = held.view(held.real(run(engine, held)))
    assert largest_difference(found, held.own.logits) > held.own.budget
    assert rms(found, held.own.logits) > held.own.rms_budget


def test_of_a_large_vocabulary_some_columns_are_stored():
    config = tiny_models.llama(vocabulary=1000, width=16, heads=2, kv_heads=1, head_size=8, mlp=16)
    arrays = golden(config, tiny_models.weights(config))
    held = read(arrays, config)
    assert 256 < held.own.logits.shape[1] < 320
    assert np.isin(held.best, held.columns).all()
    assert sum(a.nbytes for a in arrays.values()) < 130_000
    again = golden(config, tiny_models.weights(config))
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)


def test_a_digest_depends_on_numbers_and_not_on_memory_order():
    w = np.arange(450, dtype=np.float32).reshape(3, 150)
    kind = np.dtype(np.float32)
    assert digest(w, kind) == hashlib.sha256(b"|" + w.tobytes()).digest()
    assert digest(w, kind) == digest(np.asfortranarray(w), kind)
    assert digest(w, kind) != digest(w + np.float32(1e-6), kind)
    blocks = quantize(w, bits=8, block=2)
    assert digest(blocks, kind) != digest(dataclasses.replace(blocks, scale=blocks.scale * 2), kind)
    flipped = blocks.codes.copy()
    flipped[0, 0] ^= 1
    assert digest(blocks, kind) != digest(dataclasses.replace(blocks, codes=flipped), kind)
    shifted = dataclasses.replace(blocks, zero=np.zeros(blocks.scale.shape, np.uint8))
    assert digest(blocks, kind) != digest(shifted, kind)


def test_missing_and_unknown_arrays_are_refused():
    config = tiny_models.llama()
    arrays = golden(config, tiny_models.weights(config))
    with refused(BundleError, "spare"):
        read(arrays | {"spare": np.zeros(1)}, config)
    with refused(BundleError, "own.rms"):
        read({name: a for name, a in arrays.items() if name != "own.rms"}, config)
    with refused(BundleError, "plain.rms"):
        read(arrays | {"plain.rms": np.zeros(1)}, config)
    with refused(BundleError, "source,", "source_lengths;"):
        read(arrays, tiny_models.encoder_decoder())
    with refused(BundleError, "types;"):
        read(arrays, tiny_models.encoder())


def test_arrays_of_another_shape_or_type_are_refused():
    config = tiny_models.encoder_decoder()
    arrays = golden(config, tiny_models.weights(config))
    for name, array in arrays.items():
        with refused(BundleError, f"golden/{name}.npy", "shape"):
            read(arrays | {name: array[None]}, config)
        with refused(BundleError, f"golden/{name}.npy", "shape"):
            read(arrays | {name: array.astype(np.complex128)}, config)
    for name, value in (
        ("tokens", 97),
        ("source", -1),
        ("source", 97),
        ("lengths", 0),
        ("source_lengths", 99),
        ("columns", 97),
        ("best", 97),
    ):
        outside = arrays[name].copy()
        outside.reshape(-1)[0] = value
        with refused(BundleError, f"golden/{name}.npy"):
            read(arrays | {name: outside}, config)


def test_budgets_are_four_times_the_stored_terms():
    terms = np.array([0.5, 1.0, 0.25])
    expected = Expected(np.zeros((1, 1)), maximum=terms, rms=2 * terms)
    assert (expected.budget, expected.rms_budget) == (7.0, 14.0)


@pytest.mark.parametrize(("dtype", "ulp"), [("float32", 9.54e-7), ("float16", 7.82e-3)])
def test_the_stored_terms_of_given_outputs(monkeypatch, dtype, ulp):
    """A of one number that rounds by 1, J of a try in which the first row moves by 1/2, u of an ulp of 8.

    That is 8 · 2⁻²³ or 8 · 2⁻¹⁰, rounded up to three digits.
    """
    config, time = tiny_models.llama(), module.TOKENS
    weights = tiny_models.weights(config)
    exact = np.full((2, time, 97), 8.0)
    tries = [exact.copy() for _ in range(TRIES)]
    for k, (copy, change) in enumerate(zip(tries, (0.25, -0.5, 0.125), strict=True)):
        copy[0] += change
        copy[1, -1] += 1000 * k  # padding
    rounded = exact.copy()
    rounded[0, 3, 5] += 1

    def given_outputs(config, params, inputs, runs, on_leaf, on_layer, on_cache):
        for name, leaf in flatten(params):
            on_leaf(name, leaf)
        return [np.concatenate([exact, *tries]), rounded]

    monkeypatch.setattr(module, "outputs", given_outputs)
    held = read(golden(config, weights, dtype=dtype), config)
    positions = held.lengths.sum()
    assert held.own.maximum.tolist() == [1.0, 0.5, ulp]
    root_mean_squares = (positions * 97) ** -0.5, 0.5 * (time / positions) ** 0.5
    assert held.own.rms.tolist() == [*map(rounded_up, root_mean_squares), ulp]


def test_the_stored_terms_are_those_of_the_runs():
    config, weights = CONFIGS["llama"], tiny_models.weights(CONFIGS["llama"])
    held = read(golden(config, weights), config)
    exact = held.own.logits[:, :-1]  # all columns of this vocabulary, without log Σ exp
    single = held.real(run(NumpyEngine(config, weights), held))
    ulp = rounded_up(2.0**-23 * np.abs(exact).max())
    assert held.own.maximum[0] == pytest.approx(largest_difference(single, exact), rel=0.5)
    assert held.own.rms[0] == pytest.approx(rms(single, exact), rel=0.5)
    assert held.own.maximum[2] == held.own.rms[2] == ulp

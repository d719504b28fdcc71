"""Passes side by side: each gives what it gives alone, and few leaves, caches and keys are in memory."""

from __future__ import annotations

import gc
import weakref
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from tfm.refimpl.config import LM, Config, Decoder
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.engine.passes import Pass, SideBySide, Text, given, noise, read
from tfm.refimpl.ops.cache import KVCache
from tfm.refimpl.ops.cross_attention import cross_keys
from tfm.refimpl.ops.dispatch import body, in_use, use
from tfm.refimpl.ops.linear import linear
from tfm.refimpl.ops.shared_attention import SharedKV
from tfm.refimpl.params.tree import flatten

MODELS: dict[str, Config] = {
    "decoder": tiny_models.llama(layers=3, tied=False),
    "shared keys, vectors for each layer": tiny_models.shared_kv(),
    "several streams of a token": tiny_models.altup(),
    "streams that are mixed": tiny_models.hyper_connected(),
    "states": tiny_models.state_spaces(),
    "a block is shared": tiny_models.shared_blocks(),
    "an indexer is shared": tiny_models.indexed(),
    "encoder": tiny_models.encoder(),
    "distances": tiny_models.distant(),
    "summaries": tiny_models.summarized(),
    "reads an encoder": tiny_models.rotary_encoder_decoder(),
    "reads an encoder in the same softmax": tiny_models.merging(),
    "reads an encoder for a head": tiny_models.reading_decoder(),
    "hears": tiny_models.hearing(),
    "writes what it hears": tiny_models.writing(),
    "spells": tiny_models.spelling(before=True, normalized="each"),
}
FLOAT = np.dtype(np.float64)


def text(config: Config, time: int) -> Text:
    tokens, lengths = np.random.default_rng(time).integers(0, 97, (2, time)), np.array([time, time - 2])
    if config.stem is not None:
        sound = noise(config, np.random.default_rng(time), 2, time)
        return Text(tokens, lengths, sound, np.full(2, config.positions(sound.shape[1])))
    if isinstance(config.head, LM) and not isinstance(config, Decoder):
        return Text(tokens, lengths, tokens[::-1], lengths)
    return Text(tokens, lengths)


def in_order(function: Any, numbers: range) -> list[Any]:
    return [function(i) for i in numbers]


def run(config: Config, texts: list[Text], load: Any, **callbacks: Any) -> list[np.ndarray]:
    together = SideBySide(config, in_order)
    leaf = lambda name: together.once(name, lambda: load(name))  # noqa: E731
    passes = [Pass(given(one, FLOAT, config=config), leaf, nullcontext) for one in texts]
    return together.run(passes, **callbacks)


@pytest.mark.parametrize("name", MODELS)
def test_each_pass_gives_what_an_engine_gives(name: str) -> None:
    """Of texts of different lengths."""
    config = MODELS[name]
    params = tiny_models.weights(config, dtype=np.float64)
    leaves, done = dict(flatten(params)), []
    texts = [text(config, time) for time in (7, 4, 5)]
    together = run(config, texts, leaves.__getitem__, on_layer=lambda *layers: done.append(layers))
    total = sum(len(stack.layers) for stack in config.stacks.values())
    assert done == [(i + 1, total) for i in range(total)]
    engine = NumpyEngine(config, params)
    for one, got in zip(texts, together, strict=True):
        np.testing.assert_array_equal(got, read(given(one, FLOAT, config=config), params, config=config))
        if not isinstance(config.head, LM):
            expected = engine.predict(one.tokens if one.encoder_ids is None else one.encoder_ids, one.lengths)
        else:
            at = np.tile(np.arange(one.tokens.shape[1]), (2, 1))
            cache = engine.start(2, one.encoder_ids, one.encoder_lengths)
            expected, _ = engine.step(one.tokens, cache, at=at)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_one_layer_is_in_memory(name: str) -> None:
    """A leaf is dropped before a leaf of the next layer is loaded; each is loaded once for both passes."""
    config = MODELS[name]
    leaves, loaded, held = dict(flatten(tiny_models.weights(config))), [], {}

    def load(name: str) -> np.ndarray:
        layer = name.split(".")[:3] if ".layers." in name else None
        others = [other for other, leaf in held.items() if ".layers." in other and leaf() is not None]
        assert all(other.split(".")[:3] == layer for other in others), f"{others} are in memory beside {name}"
        loaded.append(name)
        leaf = leaves[name].copy()
        held[name] = weakref.ref(leaf)
        return leaf

    run(config, [text(config, 4), text(config, 6)], load)
    of_layers = [name for name in loaded if ".layers." in name]
    assert len(of_layers) == len(set(of_layers)) > 0


@pytest.mark.parametrize("name", ["decoder", "shared keys, vectors for each layer"])
def test_what_no_later_layer_reads_is_dropped(name: str) -> None:
    config = MODELS[name]
    leaves, kept, alive = dict(flatten(tiny_models.weights(config))), [], []

    def on_cache(number: int, layer: int, cache: Any) -> None:
        gc.collect()
        alive.append([i for i, one in kept if one() is not None])
        if isinstance(cache, KVCache):
            kept.append((layer, weakref.ref(cache.keys)))
        else:
            assert isinstance(cache, SharedKV)

    run(config, [text(config, 4)], leaves.__getitem__, on_cache=on_cache)
    read_later = {layer.kv_layer for layer in config.layers} - {None}
    assert len(kept) >= 2
    assert set(alive[-1]) == read_later


def test_the_keys_of_an_encoder_are_made_layer_by_layer() -> None:
    config = tiny_models.rotary_encoder_decoder()
    leaves, order = dict(flatten(tiny_models.weights(config))), []

    def noted(*arguments: Any, **settings: Any) -> Any:
        order.append("keys")
        return body(cross_keys)(*arguments, **settings)

    together = SideBySide(config, in_order)
    taken = given(text(config, 4), FLOAT, config=config)
    one = Pass(taken, leaves.__getitem__, lambda: use({"cross_keys": noted}))
    together.run([one], lambda done, total: order.append("layer"))
    encoder, decoder = (len(stack.layers) for stack in config.stacks.values())
    assert order == ["layer"] * encoder + ["keys", "layer"] * decoder


def test_loads_and_callbacks_see_no_replaced_op() -> None:
    """They may compute with the specification while a pass is over tensors, or is recorded."""
    config = tiny_models.llama()
    leaves, tables = dict(flatten(tiny_models.weights(config))), []
    together = SideBySide(config, in_order)

    def load(name: str) -> np.ndarray:
        tables.append(in_use())
        return leaves[name]

    def note(*_: Any) -> None:
        tables.append(in_use())

    inside = lambda: use({"linear": body(linear)})  # noqa: E731
    leaf = lambda name: together.once(name, lambda: load(name))  # noqa: E731
    one = Pass(given(text(config, 4), FLOAT, config=config), leaf, inside)
    together.run([one], note, note)
    assert len(tables) > len(leaves)
    assert not any(tables)

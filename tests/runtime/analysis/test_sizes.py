"""Parameters, bytes and the longest context, from a Config alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers import tiny_models
from helpers.config_strategies import narrowed
from tfm.refimpl.params.shapes import parameter_shapes
from tfm.runtime.analysis import sizes
from tfm.runtime.analysis.sizes import Need, Saving
from tfm.runtime.bundle.schemes import SCHEMES


def test_parts_have_what_belongs_to_them():
    config = tiny_models.encoder(layers=1)
    parts = sizes.parameters(config)
    assert parts["embedding"] == (97 + 2 + 32) * 48
    assert parts["output"] == 48 * 48 + 48 + 2 * 48 + 97
    assert parts["norms"] == 3 * 2 * 48
    narrow = sizes.parameters(tiny_models.narrow())
    assert narrow["mlp"] == 2 * sum(2 * 24 * width + width + 24 for width in (40, 24))
    assert narrow["norms"] == 2 * (3 * 48 + (5 + 4) * 24)
    cross, self_attention = (
        sizes.parameters(tiny_models.encoder_decoder(layers=1))["attention"] - 2 * 8 * 6,
        4 * 48 * 48,
    )
    assert (
        cross == (2 + 1 + 1) * self_attention
    )  # two layers of the encoder, one of the decoder with two attentions


def test_an_encoder_keeps_no_cache():
    config = tiny_models.encoder()
    assert sizes.cache_bytes(config, 100, 4) == 0
    assert sizes.need(config, 5000, 10**9).longest_context == config.context
    assert sizes.cache_bytes(tiny_models.encoder_decoder(), 10, 4) == 2 * 2 * 6 * 8 * 10 * 4


def test_a_window_saves_cache_where_it_is_shorter():
    weights = dict.fromkeys(SCHEMES, 100)
    saved = sizes.savings(tiny_models.llama(window=32, kv_heads=6), weights)
    assert saved["window, cache"] == Saving(2 * 2 * 6 * 16 * 2 * 128, 2 * 2 * 6 * 16 * 2 * 32)
    assert "grouped queries, cache" not in saved, "each head has its own keys"
    assert "int8 weights" not in saved, "as many bytes are no saving"
    assert "window, cache" not in sizes.savings(tiny_models.llama(window=500), weights)
    assert sizes.savings(tiny_models.encoder(), {**weights, "int4": 30}) == {"int4 weights": Saving(100, 30)}


def test_the_longest_context_that_fits():
    config = tiny_models.llama(context=1000)
    per_token = sizes.cache_bytes(config, 1, 4)
    room = sizes.RUNNER_BYTES + 5000
    assert sizes.need(config, 5000, room).longest_context == 0
    assert sizes.need(config, 5000, room - 1) == Need(5000, fits=False, longest_context=0)
    assert sizes.need(config, 5000, room + 10 * per_token).longest_context == 10
    assert sizes.need(config, 5000, room + 10**9) == Need(5000, fits=True, longest_context=1000)
    assert sizes.need(config, 5000, None) == Need(5000, fits=None, longest_context=None)


@pytest.mark.parametrize("narrow", [False, True])
def test_a_token_uses_the_leaves_of_its_experts_alone(narrow):
    """Their biases too; experts without gates read a latent."""
    config = tiny_models.sinks()
    if narrow:
        stack = config.stack
        layers = tuple(replace(layer, mlp=narrowed(layer.mlp)) for layer in stack.layers)
        config = replace(config, stack=replace(stack, layers=layers))
    shapes = parameter_shapes(config)
    idle = sum(np.prod(s) for n, s in shapes.items() if "experts.2." in n or "experts.3." in n)
    assert sizes.active_parameters(config) == sum(np.prod(s) for s in shapes.values()) - idle


def test_parts_cover_every_parameter():
    config = tiny_models.llama(tied=False, bias=True, qk_norm=True, plain=True)
    parts = sizes.parameters(config)
    assert sum(parts.values()) == sum(np.prod(s) for s in parameter_shapes(config).values())
    assert parts["output"] == parts["embedding"]


def test_layers_that_read_anothers_keys_and_values_keep_nothing():
    config = tiny_models.shared_kv()
    own = sum(2 * a.kv_heads * a.head_size for a in config.stack.attentions[:2])
    assert sizes.cache_bytes(config, 100, 4) == 4 * 100 * own
    heads = sum(2 * a.heads * a.head_size for a in config.stack.attentions)
    assert sizes.plain_cache_bytes(config, 100, 4) == 4 * 100 * heads
    saved = sizes.savings(config, sizes.weight_bytes(config))["shared keys and values, cache"]
    assert saved == Saving(2 * 2 * 128 * own, 2 * 128 * own)
    table = (config.embedding.vocabulary - 3) * 4 * 16
    assert sizes.parameters(config)["embedding"] > table


def test_streams_and_learned_residuals_are_a_part():
    config = tiny_models.altup()
    width, layers = config.embedding.width, 4
    streams, learned = 2 * 2 * width**2, (2 * 12 + 1) * width
    coefficients = 3 * width + width + 3 * 9 + 9
    assert sizes.parameters(config)["residual"] == streams + layers * (learned + coefficients)
    assert "residual" not in sizes.parameters(tiny_models.shared_kv())


def test_a_recurrence_keeps_as_much_of_any_text():
    config = tiny_models.recurrent()
    keys = 2 * 2 * 16 * 4
    states = (2 * 8 * 8 + 2 * 8 + 2 * 20) * 4
    assert [sizes.cache_bytes(config, n, 4) - n * keys for n in (1, 50, 128)] == [states] * 3
    weights = dict.fromkeys(SCHEMES, 100)
    # Beside 6 heads of keys and values there are sums and states, which no technique makes smaller.
    assert sizes.savings(config, weights)["grouped queries, cache"] == Saving(
        6 * keys * 128 // 4 + states // 2, 2 * keys * 128 // 4 + states // 2
    )

"""Rotary settings read from keys: frequencies and magnitude equal those of transformers' own modules."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import transformers
from families.kit import CONTEXT, ropes
from helpers.float64 import in_float64
from helpers.refused import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from tfm.refimpl.checkpoint.config_readers import rope as rope_keys
from tfm.refimpl.checkpoint.config_readers.gguf_rope import rope_scaling
from tfm.refimpl.checkpoint.config_readers.keys import Keys
from tfm.refimpl.config import DynamicNTK, LongRope, Rope
from tfm.refimpl.errors import ConfigError
from tfm.refimpl.ops.position_tables import position_tables
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.modernbert.modeling_modernbert import ModernBertRotaryEmbedding

HEAD = 16
FULL, SLIDING = "full_attention", "sliding_attention"
GEMMA: dict[str, Any] = {
    "thetas": {FULL: ("rope_theta", 1e6), SLIDING: ("rope_local_base_freq", 1e4)},
    "scaled": (FULL,),
}
MODERNBERT: dict[str, Any] = {
    "thetas": {FULL: ("global_rope_theta", 160_000.0), SLIDING: ("local_rope_theta", 1e4)},
    "scaled": (FULL, SLIDING),
}


class Model:
    """What `position_tables` reads of a Config."""

    def __init__(self, rope: Rope, context: int) -> None:
        self.ropes, self.context = (rope,), context


def assert_turned_alike(rope: Rope, frequencies: Any, magnitude: float) -> None:
    context = rope_keys.exact_context(CONTEXT, rope)
    cos, sin = position_tables(np.array([0, 1]), config=Model(rope, context))[rope]  # pyright: ignore
    assert abs(cos[0, 0] - magnitude) < 1e-12
    np.testing.assert_allclose(np.arctan2(sin[1], cos[1]), frequencies.numpy(), rtol=1e-9)


@settings(max_examples=40)
@given(ropes(HEAD), ropes(HEAD), st.sampled_from(["gemma", "modernbert"]))
def test_types_of_layers_have_their_own_ropes(full: dict, sliding: dict, family: str):
    sizes = {"hidden_size": 2 * HEAD, "num_attention_heads": 2, "num_hidden_layers": 6}
    sizes |= {"max_position_embeddings": CONTEXT}
    for one in (full, sliding):
        one.pop("truncate", None)
    nested = {FULL: full, SLIDING: sliding}
    if family == "gemma":
        config = transformers.Gemma3TextConfig(**sizes, head_dim=HEAD, rope_parameters=nested)
        module, reading = in_float64(Gemma3RotaryEmbedding, config), GEMMA
    else:
        config = transformers.ModernBertConfig(**sizes, rope_parameters=nested)
        module, reading = in_float64(ModernBertRotaryEmbedding, config), MODERNBERT
    ropes_read = rope_keys.ropes(Keys({"rope_parameters": nested}, "x"), HEAD, CONTEXT, **reading)
    for kind, rope in ropes_read.items():
        magnitude = getattr(module, f"{kind}_attention_scaling")
        assert_turned_alike(rope, getattr(module, f"{kind}_inv_freq"), magnitude)


OLD = {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}


@pytest.mark.parametrize(
    "keys", [{}, OLD, {"rope_theta": 5e5}, {"rope_local_base_freq": 5.0, **OLD}, {"rope_parameters": None}]
)
def test_gemmas_older_keys(keys: dict):
    config = transformers.Gemma3TextConfig(**copy.deepcopy(keys), head_dim=HEAD)
    assert_read_as(in_float64(Gemma3RotaryEmbedding, config), keys, GEMMA)


@pytest.mark.parametrize("keys", [{}, OLD, {"global_rope_theta": 500.0}, {"local_rope_theta": 5.0, **OLD}])
def test_modernberts_older_keys(keys: dict):
    config = transformers.ModernBertConfig(**copy.deepcopy(keys), hidden_size=2 * HEAD, num_attention_heads=2)
    assert_read_as(in_float64(ModernBertRotaryEmbedding, config), keys, MODERNBERT)


def assert_read_as(module: Any, keys: dict, names: dict) -> None:
    """Each kind of layer turns as in this module."""
    for kind, rope in rope_keys.ropes(Keys(keys, "x"), HEAD, CONTEXT, **names).items():
        assert_turned_alike(rope, getattr(module, f"{kind}_inv_freq"), 1.0)


@pytest.mark.parametrize("share", [0.25, 0.3, 0.5, 0.7, 1.0])  # of 21: 5, 6, 10, 14 and 21 dims
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("kind", ["default", "linear", "dynamic", "llama3"])
def test_partial_rotary_positions(share: float, inside: bool, kind: str):
    """An odd number of dims rotates one more, as in transformers; an odd head can't be rotated whole."""
    size = 21 if share < 1 else 20
    inner: dict[str, Any] = {"rope_type": kind, "rope_theta": 300.0}
    inner |= {} if kind == "default" else {"factor": 4.0}
    if kind == "llama3":
        inner |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    inner |= {"partial_rotary_factor": share} if inside else {}
    keys = {"rope_parameters": inner} | ({} if inside else {"rotary_pct": share})
    names = ("rotary_emb_base", "rotary_pct")
    ropes_read = rope_keys.rope(Keys(copy.deepcopy(keys), "x"), size, CONTEXT, partial=0.25, names=names)
    config = transformers.GPTNeoXConfig(hidden_size=2 * size, num_attention_heads=2, **keys)
    module = in_float64(GPTNeoXRotaryEmbedding, config)
    assert ropes_read.dims == 2 * len(module.inv_freq)
    assert_turned_alike(ropes_read, module.inv_freq, 1.0)


def test_the_familys_own_names_and_defaults():
    names = ("rotary_emb_base", "rotary_pct")
    assert rope_keys.rope(Keys({}, "x"), 32, 64, theta=5.0, partial=0.25, names=names) == Rope(5.0, 8)
    keys = Keys({"rotary_emb_base": 7, "rotary_pct": 0.5}, "x")
    assert rope_keys.rope(keys, 32, 64, theta=5.0, partial=0.25, names=names) == Rope(7.0, 16)
    keys.finish({})


def test_the_context_ends_at_the_original_one():
    """Beyond it transformers' LongRoPE rotates the same tokens by its other divisors."""
    long = LongRope((1.0,) * 8, (2.0,) * 8, 16)
    assert rope_keys.exact_context(64, Rope(1e4, 16, scaling=long), Rope(1e4, 16)) == 16
    assert rope_keys.exact_context(8, Rope(1e4, 16, scaling=long)) == 8
    assert rope_keys.exact_context(64, Rope(1e4, 16, scaling=DynamicNTK(4.0, 64))) == 64


@pytest.mark.parametrize("outer", [None, 24])
@pytest.mark.parametrize("inner", [None, 40])
@pytest.mark.parametrize("kind", ["yarn", "llama3"])
def test_of_two_trained_contexts_the_outer_counts(outer: int | None, inner: int | None, kind: str):
    stated: dict[str, Any] = {"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    stated |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind == "llama3" else {}
    stated |= {} if inner is None else {"original_max_position_embeddings": inner}
    keys: dict[str, Any] = {} if outer is None else {"original_max_position_embeddings": outer}
    ropes_read = rope_keys.rope(Keys({**keys, "rope_parameters": dict(stated)}, "x"), HEAD, CONTEXT)
    config = transformers.LlamaConfig(
        head_dim=HEAD, max_position_embeddings=CONTEXT, rope_parameters=stated, **keys
    )
    module = in_float64(transformers.models.llama.modeling_llama.LlamaRotaryEmbedding, config)
    assert_turned_alike(ropes_read, module.inv_freq, module.attention_scaling)


LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"rope_parameters": {"rope_type": "proportional"}}, "rope_type llama3"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters factor"),
        ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "'factor'"),
        (
            {
                "rope_parameters": {
                    "rope_type": "dynamic",
                    "factor": 2.0,
                    "original_max_position_embeddings": 8,
                }
            },
            "'original_max_position_embeddings'",
        ),
        ({"rope_parameters": {**LONG, "short_factor": [1.0, -1.0]}}, "short_factor positive"),
        ({"rope_parameters": {**LONG, "long_factor": [True] * 8}}, "long_factor positive"),
        (
            {"rope_parameters": {**LONG, "original_max_position_embeddings": 1}},
            "original_max_position_embeddings 1",
        ),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 1 heads"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 1 heads 0.5"),
    ],
)
def test_refused(keys: dict, words: str):
    with refused(ConfigError, *words.split()):
        rope_keys.rope(Keys(keys, "x"), HEAD, CONTEXT)


def test_refused_with_partial_rotary_positions():
    for share, words in ((0.0, "greater than 0"), (1.5, "above 0 and at most 1, got 1.5")):
        keys = Keys({"rope_parameters": {"partial_rotary_factor": share}}, "x")
        with refused(ConfigError, "partial_rotary_factor", words):
            rope_keys.rope(keys, HEAD, CONTEXT, partial=0.25)
    yarn = {"rope_type": "yarn", "factor": 2.0, "partial_rotary_factor": 0.2}
    with refused(ConfigError, "dims", 3):
        rope_keys.rope(Keys({"rope_parameters": yarn}, "x"), HEAD, CONTEXT, partial=0.25)
    with refused(ConfigError, "context", 16777216):
        rope_keys.rope(Keys({"rope_parameters": yarn}, "x"), HEAD, 2**60, partial=0.25)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"rope_parameters": {"rope_theta": 5.0}}, "rope_parameters 'rope_theta'"),
        ({"rope_parameters": {FULL: {"rope_theta": 5.0}}, "rope_theta": 6.0}, "rope_theta 6"),
        (
            {"rope_parameters": {FULL: {"rope_type": "yarn", "factor": 2.0, "truncate": False}}},
            "rope_parameters.full_attention truncate",
        ),
        ({"rope_parameters": {SLIDING: {"partial_rotary_factor": 0.5}}}, "1 heads"),
        ({"rope_parameters": {FULL: {"rope_theta": 5.0}}, **OLD}, "rope_scaling"),
    ],
)
def test_refused_of_types_of_layers(keys: dict, words: str):
    with refused(ConfigError, *words.split()):
        rope_keys.ropes(Keys(keys, "x"), HEAD, CONTEXT, **GEMMA)


@pytest.mark.parametrize(
    ("kind", "scaling"),
    [({}, {"rope_type": "linear", "factor": 4.0}), ({"rope.scaling.type": "none"}, {"rope_type": "default"})],
)
def test_a_factor_alone_is_linear_in_gguf(kind: dict[str, Any], scaling: dict[str, Any]):
    keys = Keys({"context_length": 64, "rope.scaling.factor": 4.0, **kind}, "gguf")

    class Bare:
        """A file without a tensor of divisors."""

        names = ()

    assert rope_scaling(keys, Bare(), HEAD) == scaling

"""Positions against others: transformers' rotary scalings, waves, slopes, buckets and masks.

No oracle outside for `learned` (a table's row).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.float64 import in_float64
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import (
    DynamicNTK,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    ProportionalScaling,
    Rope,
    Yarn,
)
from tfm.refimpl.laws.kit.results import largest
from tfm.refimpl.ops import bias, mask
from tfm.refimpl.ops.position import query_factors, rope_frequencies, sinusoidal
from tfm.refimpl.ops.position_tables import position_tables
from transformers import LlamaConfig, masking_utils
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding
from transformers.models.ministral3.modeling_ministral3 import get_llama_4_attn_scale
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor
from transformers.models.t5.modeling_t5 import T5Attention

HEAD = 64
ORIGINAL = 256
SINGLE = 2e-6


def divisors(start: float) -> list[float]:
    return [start + i / 7 for i in range(HEAD // 2)]


# Their rope_parameters, and our scaling. Both were given lengths past the trained one.
SCALINGS: dict[str, tuple[dict[str, Any], Any]] = {
    "linear": ({"rope_type": "linear", "factor": 4.0}, LinearScaling(4.0)),
    "dynamic": ({"rope_type": "dynamic", "factor": 4.0}, DynamicNTK(4.0, ORIGINAL)),
    "yarn": ({"rope_type": "yarn", "factor": 4.0}, Yarn(4.0, ORIGINAL)),
    "yarn, all keys": (
        {
            "rope_type": "yarn",
            "factor": 8.0,
            "beta_fast": 20.0,
            "beta_slow": 2.0,
            "truncate": False,
            "attention_factor": 1.5,
        },
        Yarn(8.0, ORIGINAL, 20.0, 2.0, False, 1.5),
    ),
    "yarn, shorter": ({"rope_type": "yarn", "factor": 0.5}, Yarn(0.5, ORIGINAL)),
    "longrope": (
        {
            "rope_type": "longrope",
            "factor": 4.0,
            "short_factor": divisors(1.0),
            "long_factor": divisors(2.0),
            "attention_factor": 1.25,
        },
        LongRope(tuple(divisors(1.0)), tuple(divisors(2.0)), ORIGINAL, 1.25),
    ),
    "llama3": (
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        Llama3Scaling(8.0, 1.0, 4.0, ORIGINAL),
    ),
    "llama3 at once": (
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0},
        Llama3Scaling(8.0, 1.0, 1.0, ORIGINAL),
    ),
}


def theirs(keys: dict[str, Any], theta: float) -> LlamaConfig:
    more = {"rope_theta": theta, "original_max_position_embeddings": ORIGINAL}
    return LlamaConfig(
        hidden_size=HEAD,
        num_attention_heads=1,
        head_dim=HEAD,
        max_position_embeddings=ORIGINAL,
        rope_parameters=keys
        | (more if keys["rope_type"] not in ("linear", "dynamic") else {"rope_theta": theta}),
    )


class Model:
    """What `position_tables` reads of a Config."""

    def __init__(self, rope: Rope, context: int) -> None:
        self.ropes, self.context = (rope,), context


@pytest.mark.parametrize("context", [ORIGINAL // 2, ORIGINAL, 4 * ORIGINAL])
@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("theta", [10_000.0, 500.0, 10.0])  # with 10, each pair turns more than beta_slow
def test_rotary_scalings_are_transformers(kind: str, theta: float, context: int):
    """Frequencies and attention factor of each function, in float64, up to the trained length and past it."""
    keys, scaling = SCALINGS[kind]
    config = theirs(keys, theta)
    expected, magnitude = in_float64(ROPE_INIT_FUNCTIONS[keys["rope_type"]], config, "cpu", seq_len=context)
    rope = Rope(theta, HEAD, scaling=scaling)
    cos, sin = position_tables(np.array([0, 1]), config=Model(rope, context))[rope]  # pyright: ignore
    assert largest(cos[0] - magnitude) < 1e-12
    assert largest(np.arctan2(sin[1], cos[1]) / expected.numpy() - 1) < 1e-9


@pytest.mark.parametrize(("share", "turned"), [(0.25, 8), (0.7, 22), (1.0, 32)])
def test_proportional_scaling_is_transformers(share: float, turned: int):
    """Of 32 pairs some stand still; with all turned it is linear scaling."""
    keys = {"rope_type": "proportional", "partial_rotary_factor": share, "factor": 2.0}
    config = theirs(keys, 500.0)
    expected, _ = in_float64(ROPE_INIT_FUNCTIONS["proportional"], config, "cpu")
    rope = Rope(500.0, HEAD, scaling=ProportionalScaling(turned, 2.0))
    cos, sin = position_tables(np.array([3]), config=Model(rope, ORIGINAL))[rope]  # pyright: ignore
    assert largest(cos[0] - np.cos(3 * expected.numpy())) < 1e-12
    assert largest(sin[0] - np.sin(3 * expected.numpy())) < 1e-12
    assert np.count_nonzero(sin) == turned


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_whole_text_is_rotated_as_by_transformers(kind: str):
    """transformers uses the length of the text, we use the context: equal where these are."""
    keys, scaling = SCALINGS[kind]
    for context in (ORIGINAL // 2, 2 * ORIGINAL):
        module = LlamaRotaryEmbedding(theirs(keys, 10_000.0))
        rope, at = Rope(10_000.0, HEAD, scaling=scaling), np.arange(context)
        cos, sin = position_tables(at, config=Model(rope, context))[rope]  # pyright: ignore
        c, s = module(torch.zeros(1, dtype=torch.float64), torch.from_numpy(at)[None])
        # Their angles are float32, up to 512 rad.
        assert largest(cos - c[0, :, : HEAD // 2].numpy()) < 1e-4
        assert largest(sin - s[0, :, : HEAD // 2].numpy()) < 1e-4


def test_sinusoids_are_marians_and_distilberts():
    positions = np.arange(40)
    frequencies = rope_frequencies(np.arange(12), theta=10_000.0)
    marian = MarianSinusoidalPositionalEmbedding(40, 24).create_weight()
    assert largest(sinusoidal(positions[None], frequencies)[0] - marian.numpy()) < SINGLE
    out = torch.empty(40, 24)
    create_sinusoidal_embeddings(40, 24, out)
    assert largest(sinusoidal(positions[None], frequencies, interleaved=True)[0] - out.numpy()) < SINGLE


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 6, 7, 8, 12, 16, 25, 112])
def test_slopes_are_blooms_and_mpts(heads: int):
    """Any number of heads; MPT's largest bias too. Their bias differs by a number for each query."""
    slopes = bias.alibi_slopes(np.arange(heads))
    ours = bias.alibi_bias(slopes, np.array([[8]]), np.arange(9))[0, :, 0]
    bloom = in_float64(build_alibi_tensor, torch.ones(1, 9), heads, torch.float64)[:, 0].numpy()
    assert largest(ours - (bloom - bloom[:, -1:])) < 1e-12
    for most in (8, 4):
        mpt = in_float64(build_mpt_alibi_tensor, heads, 9, alibi_bias_max=most)[:, 0].numpy()
        slopes = bias.alibi_slopes(np.arange(heads), max_bias=float(most))
        assert largest(bias.alibi_bias(slopes, np.array([[8]]), np.arange(9))[0, :, 0] - mpt) < 1e-12


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("sizes", [(32, 128), (8, 20), (6, 9), (7, 100), (64, 1000), (4, 3)])
def test_buckets_are_t5s(sizes: tuple[int, int], bidirectional: bool):
    """Every distance to 1,200 in each direction, in their float64 and, where T5 itself lives, in float32."""
    buckets, far = sizes
    settings: dict[str, Any] = {"bidirectional": bidirectional}
    ours = bias.relative_buckets(
        np.array([[1200]]), np.arange(2401), buckets=buckets, max_distance=far, **settings
    )
    ahead = torch.arange(2401) - 1200
    settings |= {"num_buckets": buckets, "max_distance": far}
    assert (ours[0, 0] == in_float64(T5Attention._relative_position_bucket, ahead, **settings).numpy()).all()
    if sizes == (32, 128):
        assert (ours[0, 0] == T5Attention._relative_position_bucket(ahead, **settings).numpy()).all()


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8), st.integers(1, 8))
def test_masks_are_transformers(start: int, t: int, s: int, window: int):
    """Causal, windowed one way and both ways (theirs counts one side alone), in chunks, padding, a prefix."""
    queries, keys = np.arange(start, start + t), np.arange(s)
    q, k = torch.from_numpy(queries)[:, None], torch.from_numpy(keys)[None]
    zero = torch.tensor(0)
    for ours, function in (
        (mask.causal_mask(queries[None], keys), masking_utils.causal_mask_function),
        (
            mask.causal_mask(queries[None], keys, window=window),
            masking_utils.sliding_window_causal_mask_function(window),
        ),
        (
            mask.window_mask(queries[None], keys, window=window + 1),
            masking_utils.sliding_window_bidirectional_mask_function(window),
        ),
        (
            mask.chunked_mask(queries[None], keys, chunk=window),
            masking_utils.chunked_overlay(window, torch.zeros(1, dtype=torch.int64)),
        ),
    ):
        assert (ours[0] == function(zero, zero, q, k).numpy()).all()  # pyright: ignore
    lengths = np.array([s, s // 2])
    expected = torch.nn.utils.rnn.pad_sequence([torch.ones(n) for n in lengths.tolist()], batch_first=True)
    real = expected.bool()
    prefixed = masking_utils.or_masks(
        masking_utils.causal_mask_function, masking_utils.padding_mask_function(real)
    )
    assert (mask.padding_mask(keys, lengths) == real.numpy()).all()
    for row, ours in enumerate(mask.prefix_mask(np.stack([queries, queries]), keys, lengths)):
        assert (ours == prefixed(torch.tensor(row), zero, q, k).numpy()).all()


def test_query_factors_is_ministrals():
    positions = np.array([[0, 15, 16, 47, 48], [2**17, 2**17 + 15, 31, 32, 3]])
    theirs = in_float64(get_llama_4_attn_scale, torch.from_numpy(positions), 0.1, 16)[:, 0, :, 0]
    assert largest(query_factors(positions, beta=0.1, original_context=16) - theirs.numpy()) < 1e-15

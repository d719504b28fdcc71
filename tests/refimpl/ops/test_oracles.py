"""The specification against others: torch's functions and transformers' rotary code.

No oracle outside for `append`, `causal_mask`, `linear` and the embeddings: they are one line of NumPy
each, held by laws and by the models of test_families.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.tolerances import equal, largest
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.ops import activation, attention, head, mlp, norm, position, rope_scaling
from torch.nn import functional
from transformers import LlamaConfig
from transformers.activations import ACT2FN, XIELUActivation
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as interleaved_rotary
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

# transformers' rotary tables are float32.
SINGLE = 2e-6
seeds = st.integers(0, 2**32 - 1)
scales = st.sampled_from((0.1, 1.0, 8.0))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng([seed, len(shape), *shape]).standard_normal(shape)


def t(a: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(a)


@given(seeds, scales, st.sampled_from((1e-6, 0.1)))
def test_norms_are_torchs(seed: int, scale: float, eps: float):
    x, weight, bias = normal(seed, 2, 3, 7) * scale + 1, normal(seed, 7), normal(seed + 1, 7)
    equal(norm.rms_norm(x, weight, eps=eps), functional.rms_norm(t(x), (7,), t(weight), eps))
    got = norm.layer_norm(x, weight, bias, eps=eps)
    equal(got, functional.layer_norm(t(x), (7,), t(weight), t(bias), eps))
    equal(norm.rms_norm(x, eps=eps), functional.rms_norm(t(x), (7,), None, eps))
    equal(norm.layer_norm(x, None, bias, eps=eps), functional.layer_norm(t(x), (7,), None, t(bias), eps))
    equal(norm.layer_norm(x, weight, eps=eps), functional.layer_norm(t(x), (7,), t(weight), None, eps))
    rows = x[0] * np.array([[1], [0], [eps / 10]])
    equal(head.unit(rows, eps=eps), functional.normalize(t(rows), eps=eps))


@given(seeds, scales)
def test_activations_are_torchs(seed: int, scale: float):
    x = normal(seed, 2, 3, 50) * scale
    for kind, function in (
        ("relu", functional.relu),
        ("silu", functional.silu),
        ("gelu", functional.gelu),
        ("gelu_tanh", lambda a: functional.gelu(a, approximate="tanh")),
        ("tanh", torch.tanh),
        ("sigmoid", torch.sigmoid),
        ("mish", functional.mish),
        ("quick_gelu", ACT2FN["quick_gelu"]),
        ("relu_squared", ACT2FN["relu2"]),
    ):
        equal(activation.activation(x, kind=kind), function(t(x)), 1e-14)


@given(seeds, scales, st.floats(-3, 3), st.floats(-3, 3), st.sampled_from((0.5, 0.2)))
def test_xielu_is_apertus(seed: int, scale: float, alpha_p: float, alpha_n: float, beta: float):
    """Up to the softplus of a number: torch's ends at 20."""
    x = normal(seed, 2, 3, 50) * scale
    x[0, 0, 0] = 0
    module = XIELUActivation(beta=beta, dtype=torch.float64)
    with torch.no_grad():
        module.alpha_p.fill_(alpha_p)
        module.alpha_n.fill_(alpha_n)
        expected = module(t(x))
    equal(activation.xielu(x, np.array([alpha_p]), np.array([alpha_n]), beta=beta), expected, 1e-14)


def test_activations_at_their_ends():
    """Large inputs overflow nowhere: x where x is large, 0 where it is small."""
    x = np.array([[[-1e4, 0.0, 1e4]]], np.float32)
    for kind in ("relu", "silu", "gelu", "gelu_tanh", "quick_gelu", "mish"):
        got = activation.activation(x, kind=kind)
        assert got.tolist() == [[[0, 0, 1e4]]]
        assert got.dtype == np.float32


@given(seeds, st.sampled_from(("relu", "silu", "gelu", "gelu_tanh")))
def test_mlps_are_torchs(seed: int, kind: Any):
    x, up, gate, down = (normal(seed + i, *s) for i, s in enumerate([(2, 3, 5), (5, 7), (5, 7), (7, 5)]))
    bup, bgate, bdown = (normal(seed + i, n) for i, n in enumerate((7, 7, 5)))
    act = lambda a: t(activation.activation(a.numpy(), kind=kind))  # noqa: E731
    line = lambda a, w, b: functional.linear(a, t(w.T), t(b))  # noqa: E731
    hidden = act(line(t(x), gate, bgate)) * line(t(x), up, bup)
    leaves: Any = {"up": up, "down": down, "bup": bup, "bdown": bdown}
    gated: Any = leaves | {"gate": gate, "bgate": bgate}
    equal(mlp.gated_mlp(x, gated, kind=kind), line(hidden, down, bdown))
    hidden = act(line(t(x), up, bup))
    equal(mlp.plain_mlp(x, leaves, kind=kind), line(hidden, down, bdown))


@given(seeds, st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.booleans())
def test_attend_is_torchs(seed: int, r: int, tq: int, s: int, masked: bool):
    q, k, v = normal(seed, 2, tq, 2 * r, 4), normal(seed, 2, s, 2, 4), normal(seed, 2, s, 2, 3)
    mask = np.random.default_rng(seed).random((2, tq, s)) < 0.7
    mask[:, :, 0] = True
    expected = functional.scaled_dot_product_attention(
        *(t(a).transpose(1, 2) for a in (q, k, v)),
        attn_mask=t(mask)[:, None] if masked else None,
        enable_gqa=True,
    )
    equal(attention.attend(q, k, v, mask if masked else None), expected.transpose(1, 2))


ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


@pytest.mark.parametrize("kind", ROPES)
def test_rotary_is_transformers(kind: str):
    """Frequencies, tables and the rotation of queries and keys, of Llama."""
    settings = ROPES[kind]
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=2, max_position_embeddings=65536, rope_parameters=settings
    )
    frequencies = position.rope_frequencies(np.arange(64), theta=settings["rope_theta"])
    if kind == "linear":
        frequencies = rope_scaling.linear_scaling(frequencies, factor=4.0)
    if kind == "llama3":
        frequencies = rope_scaling.llama3_scaling(
            frequencies, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_context=8192
        )
    theirs = LlamaRotaryEmbedding(config)
    assert theirs.inv_freq.shape == (64,)
    assert largest(theirs.inv_freq.numpy() / frequencies - 1) < SINGLE
    positions = np.array([0, 1, 7, 100])
    cos, sin = position.rope_tables(positions, frequencies)
    x = normal(0, 1, 4, 2, 128)
    c, s = theirs(t(x), t(positions)[None])
    q, _ = apply_rotary_pos_emb(t(x), t(x), c, s, unsqueeze_dim=2)
    # Their angles are float32: 100 · 2⁻²⁴ rad.
    equal(position.rotate(x, cos[None], sin[None]), q, 1e-4)


@given(seeds, st.integers(1, 4))
def test_interleaved_rotary_is_gptjs(seed: int, j: int):
    x, angles = normal(seed, 1, 3, 2, 2 * j), normal(seed, 1, 3, j)
    cos, sin = np.cos(angles), np.sin(angles)
    expected = interleaved_rotary(t(x), t(sin), t(cos))
    equal(position.rotate(x, cos, sin, interleaved=True), expected)

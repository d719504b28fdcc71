"""Latent attention against DeepSeek's of transformers, which expands latents, with random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from helpers.float64 import in_float64, randomize
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import QueryScale, Rope
from tfm.refimpl.ops.latent_attention import (
    LatentAttention,
    LatentCache,
    latent_attention,
    latent_self_attention,
)
from tfm.refimpl.ops.position import Rotary, rope_frequencies, rope_tables
from transformers import DeepseekV2Config, DeepseekV3Config, Mistral4Config
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2Attention
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention
from transformers.models.mistral4.modeling_mistral4 import Mistral4Attention

H, D, C, U, V, DIMS, T = 3, 15, 10, 4, 6, 8, 9


@given(
    st.integers(0, 2**32 - 1), st.sampled_from([2, 3, 4]), st.none() | st.just(11), st.booleans(),
    st.booleans(), st.integers(1, T - 1),
)  # fmt: skip
def test_latent_attention_is_deepseeks(
    seed: int, version: int, query_rank: int | None, bias: bool, interleaved: bool, cut: int
):
    """A text at once there, in two calls here, with garbage in the cache before and behind it.

    The fourth is Mistral's, whose queries are scaled.
    """
    sizes: dict[str, Any] = {
        "hidden_size": D, "num_attention_heads": H, "kv_lora_rank": C, "q_lora_rank": query_rank,
        "qk_nope_head_dim": U, "qk_rope_head_dim": DIMS, "v_head_dim": V, "attention_bias": bias,
        "num_key_value_heads": H, "attn_implementation": "eager",
    }  # fmt: skip
    interleaved = interleaved or version == 2
    if version == 2:
        module: Any = DeepseekV2Attention(DeepseekV2Config(**sizes), 0)
    elif version == 3:
        module = DeepseekV3Attention(DeepseekV3Config(rope_interleave=interleaved, **sizes), 0)
    else:
        rotary_keys = {
            "rope_type": "yarn", "rope_theta": 100.0, "factor": 1.0, "original_max_position_embeddings": 3,
            "llama_4_scaling_beta": 0.5,
        }  # fmt: skip
        config = Mistral4Config(rope_interleave=interleaved, rope_parameters=rotary_keys, **sizes)
        module = Mistral4Attention(config, 0)
    module, rng = randomize(module, seed), np.random.default_rng(seed)
    x = rng.standard_normal((2, T, D))
    rotary = Rotary(*rope_tables(np.arange(T + 3), rope_frequencies(np.arange(DIMS // 2), theta=100.0)))
    cos, sin = (torch.from_numpy(a[:T]) for a in rotary)
    positions: Any = torch.polar(torch.ones_like(cos), torch.atan2(sin, cos))[None]
    if version > 2:
        positions = tuple(torch.cat((a, a), -1)[None] for a in (cos, sin))
    mask = torch.full((1, 1, T, T), -torch.inf, dtype=torch.float64).triu(1)
    expected, _ = in_float64(
        module, hidden_states=torch.from_numpy(x), attention_mask=mask, position_embeddings=positions,
        **({"position_ids": torch.arange(T)[None]} if version == 4 else {}),
    )  # fmt: skip
    position = Rope(100.0, DIMS, interleaved)
    settings = LatentAttention(H, C, U, V, position, query_rank, bias)
    if version == 4:
        settings = replace(settings, query_scale=QueryScale(0.5, 3))
    cache = LatentCache(np.full((2, 1, T + 3, C + DIMS), 9.0))
    leaves = ours(module)
    first, cache, _ = latent_attention(x[:, :cut], cache, np.array([0, 0]), leaves, rotary, settings=settings)
    second, *_ = latent_attention(x[:, cut:], cache, np.array([cut, cut]), leaves, rotary, settings=settings)
    equal(np.concatenate([first, second], 1), expected)
    lengths = np.array([T, T - 2])
    short = Rotary(rotary.cos[:T], rotary.sin[:T])
    whole = latent_self_attention(x, lengths, leaves, short, settings=settings, causal=True)
    equal(whole[0], expected[0])
    equal(whole[1, : T - 2], expected[1, : T - 2])


def test_latent_self_attention_is_deepseeks():
    """Where each token sees the whole text, but for padding."""
    config = DeepseekV3Config(
        hidden_size=D, num_attention_heads=H, kv_lora_rank=C, q_lora_rank=11, qk_nope_head_dim=U,
        qk_rope_head_dim=DIMS, v_head_dim=V, num_key_value_heads=H, attn_implementation="eager",
    )  # fmt: skip
    module, x = (
        randomize(DeepseekV3Attention(config, 0), 3),
        np.random.default_rng(4).standard_normal((2, T, D)),
    )
    rotary = Rotary(*rope_tables(np.arange(T), rope_frequencies(np.arange(DIMS // 2), theta=100.0)))
    positions = tuple(torch.from_numpy(np.concatenate([a, a], -1))[None] for a in rotary)
    mask = torch.zeros(2, 1, 1, T, dtype=torch.float64)
    mask[1, :, :, T - 4 :] = -torch.inf
    expected, _ = in_float64(
        module, hidden_states=torch.from_numpy(x), attention_mask=mask, position_embeddings=positions
    )
    settings = LatentAttention(H, C, U, V, Rope(100.0, DIMS, True), 11)
    got = latent_self_attention(x, np.array([T, T - 4]), ours(module), rotary, settings=settings)
    equal(got[0], expected[0])
    equal(got[1, : T - 4], expected[1, : T - 4])


def ours(module: Any) -> Any:
    """The leaves of a module of theirs."""
    names = {
        "q_proj": "wq", "q_a_proj": "wq_a", "q_b_proj": "wq", "kv_a_proj_with_mqa": "wkv_a", "o_proj": "wo",
        "q_a_layernorm": "q_norm", "kv_a_layernorm": "kv_norm",
    }  # fmt: skip
    biases = {"wq_a": "bq_a", "wkv_a": "bkv_a", "wo": "bo"}
    stored = {name: weight.detach().numpy() for name, weight in module.named_parameters()}
    both = stored.pop("kv_b_proj.weight").reshape(H, U + V, C)
    leaves = {
        "wk_b": both[:, :U].transpose(2, 0, 1).reshape(C, -1),
        "wv_b": both[:, U:].transpose(2, 0, 1).reshape(C, -1),
    }
    for name, weight in stored.items():
        leaf = names[name.split(".")[0]]
        leaves[biases[leaf] if name.endswith("bias") else leaf] = weight.T
    return leaves

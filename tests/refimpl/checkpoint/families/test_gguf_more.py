"""Both dialects of mixtures of experts, the Gemmas, Granites, OLMos and GLMs, Command R and others."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from families import ROWS
from helpers.gguf_writer import renamed
from helpers.refused import refused
from safetensors.numpy import load_file, save_file
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.checkpoint.weights.steps import STEPS
from tfm.refimpl.config import to_json
from tfm.refimpl.errors import CheckpointError, ConfigError
from tfm.refimpl.ops.gated_delta import GatedDelta
from tfm.refimpl.ops.latent_attention import LatentAttention
from tfm.refimpl.ops.quant import dequantize, quantize
from tfm.refimpl.params.tree import flatten

EPS = 2.0**-17  # GGUF holds it in float32
SIZES = {
    "vocab_size": 40, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
    "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
METADATA = {
    "context_length": 512, "embedding_length": 128, "feed_forward_length": 64, "block_count": 3,
    "attention.head_count": 4, "attention.head_count_kv": 2,
}  # fmt: skip
RMS = {"attention.layer_norm_rms_epsilon": EPS}
LAYER = {"attention.layer_norm_epsilon": EPS}
HEADS = {"attention.key_length": 32, "attention.value_length": 32}
USED = {"expert_count": 5, "expert_used_count": 2}
THETA = {"rope_type": "default", "rope_theta": 5e5}


@dataclass(frozen=True)
class Dialect:
    """One model in transformers' words, and how llama.cpp's converter says it."""

    family: str
    arch: gguf.MODEL_ARCH
    keys: dict[str, Any]
    metadata: dict[str, Any]
    epsilon: str | None = "rms_norm_eps"
    older: bool = False
    name: str | None = None  # the architecture's, where the library is older


def quantile(share: float) -> float:
    """The number below which this share of a normal distribution lies, as llama.cpp's converter has it."""
    return torch.distributions.Normal(0, 1).icdf(torch.tensor(share)).item()


ARCH = gguf.MODEL_ARCH
MIXTRAL = {"num_local_experts": 5, "num_experts_per_tok": 2, "head_dim": 32, "rope_parameters": THETA}
QWEN = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "rope_parameters": THETA}
GEMMA = {"head_dim": 32}
SLIDES_AND_SEES = ["sliding_attention", "full_attention"]
PER_LAYER = {
    "head_dim": 32, "sliding_window": 7, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 40,
    "final_logit_softcapping": 20.0,
}  # fmt: skip
PER_LAYER_KEYS = {
    "attention.sliding_window": 7, "embedding_length_per_layer_input": 8, "rope.freq_base": 5e5,
    "rope.freq_base_swa": 2e4, "final_logit_softcapping": 20.0,
}  # fmt: skip
GEMMA4 = {
    "num_hidden_layers": 5, "global_head_dim": 64,
    "layer_types": [*SLIDES_AND_SEES, "sliding_attention", *SLIDES_AND_SEES],
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "rope_theta": 5e5, "partial_rotary_factor": 0.25},
        "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
    },
}  # fmt: skip
GEMMA4_KEYS = {
    "block_count": 5, "attention.sliding_window_pattern": [True, False, True, True, False],
    "attention.key_length": 64, "attention.value_length": 64, "attention.key_length_swa": 32,
    "attention.value_length_swa": 32, "rope.dimension_count": 64, "rope.dimension_count_swa": 32,
}  # fmt: skip
CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}  # also the defaults there
LOCAL = {"rope_type": "default", "rope_theta": 10_000.0}
TWO_THETAS = {"full_attention": THETA, "sliding_attention": {**LOCAL, "rope_theta": 2e4}}
THETAS = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": LOCAL,
}
SCALED = {
    "full_attention": {**THETA, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "sliding_attention": THETA,
}
WHOLE_PAIRS = {
    "rope_type": "yarn", "rope_theta": 1.5e5, "factor": 32.0, "original_max_position_embeddings": 128,
}  # fmt: skip
GLM = {"head_dim": 32, "rope_parameters": {**THETA, "partial_rotary_factor": 0.5}}
DEEPSEEK = {
    "n_routed_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True,
    "routed_scaling_factor": 2.5, "first_k_dense_replace": 1,
}  # fmt: skip
CHOSEN = {
    **USED, "expert_feed_forward_length": 32, "leading_dense_block_count": 1, "expert_weights_norm": True,
    "expert_weights_scale": 2.5, "expert_gating_func": 2, "expert_group_count": 1,
    "expert_group_used_count": 1,
}  # fmt: skip
LATENT = {
    "num_key_value_heads": 4, "kv_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 12,
    "v_head_dim": 16, "rms_norm_eps": 1e-6, "n_routed_experts": 6, "n_group": 3, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_shared_experts": 2, "first_k_dense_replace": 1,
    "routed_scaling_factor": 2.5,
}  # fmt: skip
LATENTS = {
    "attention.kv_lora_rank": 24, "rope.dimension_count": 12, "attention.layer_norm_rms_epsilon": 1e-6,
    "rope.freq_base": 5e5, "expert_count": 6, "expert_group_count": 3, "expert_used_count": 2,
    "expert_feed_forward_length": 32, "expert_shared_count": 2, "leading_dense_block_count": 1,
    "expert_weights_scale": 2.5, "vocab_size": 40,
}  # fmt: skip
INDEXED = {"q_lora_rank": 40, "index_n_heads": 3, "index_head_dim": 14, "index_topk": 5}
INDEXER = {
    "attention.q_lora_rank": 40, "attention.indexer.head_count": 3, "attention.indexer.key_length": 14,
    "attention.indexer.top_k": 5, "expert_weights_norm": True, "expert_gating_func": 2,
}  # fmt: skip
OLDER_INDEXER = {key: value for key, value in INDEXER.items() if key != "expert_gating_func"}
# Sizes of heads as files before latents were read as one head state them, and as those after.
EXPANDED = {"attention.head_count_kv": 4, "attention.key_length": 20, "attention.value_length": 16}
ABSORBED = {
    "attention.head_count_kv": 1, "attention.key_length": 36, "attention.value_length": 24,
    "attention.key_length_mla": 20, "attention.value_length_mla": 16,
}  # fmt: skip
KIMI = {
    **LATENT, "num_local_experts": LATENT["n_routed_experts"], "linear_head_dim": 10, "linear_num_heads": 4,
    "linear_conv_kernel_dim": 3, "layer_types": ["linear_attention", "full_attention", "linear_attention"],
}  # fmt: skip
KIMI.pop("n_routed_experts")
KIMIS = {
    **LATENTS, **ABSORBED, "attention.head_count_kv": [0, 1, 0], "attention.value_length": 72,
    "expert_group_used_count": 1, "expert_gating_func": 2, "kda.head_dim": 10, "ssm.conv_kernel": 3,
}  # fmt: skip
ALL_DIMS = {
    "rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 128,
    "mscale": 1.25, "mscale_all_dim": 1.25,
}  # fmt: skip
# Value heads are wider than keys, and three to each of two key heads; layers 0 and 2 have them.
DELTA = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 6, "linear_key_head_dim": 8,
    "linear_value_head_dim": 16, "linear_conv_kernel_dim": 3, "full_attention_interval": 2, "head_dim": 32,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 0.5},
}  # fmt: skip
DELTAS = {
    "ssm.group_count": 2, "ssm.time_step_rank": 6, "ssm.state_size": 8, "ssm.inner_size": 96,
    "ssm.conv_kernel": 3, "full_attention_interval": 2, "rope.freq_base": 5e5, "rope.dimension_count": 16,
    **RMS, **HEADS,
}  # fmt: skip
SHARED = {**QWEN, "norm_topk_prob": True, "shared_expert_intermediate_size": 96}
SHARING = {**USED, "expert_feed_forward_length": 32, "expert_shared_feed_forward_length": 96}
STABLE = {"rope_parameters": {**LOCAL, "partial_rotary_factor": 0.5}}
GRANITE = {
    "embedding_multiplier": 12.0, "attention_multiplier": 2.0**-7, "residual_multiplier": 0.25,
    "logits_scaling": 8.0,
}  # fmt: skip
SCALES = {"embedding_scale": 12.0, "attention.scale": 2.0**-7, "residual_scale": 0.25, "logit_scale": 8.0}
HYBRID = {
    **GRANITE, "layer_types": ["full_attention"] * 3, "position_embedding_type": "rope",
    "rope_parameters": THETA,
}  # fmt: skip
# What the converter writes of a model that might have had state layers.
STATES = {
    "ssm.conv_kernel": 4, "ssm.state_size": 256, "ssm.group_count": 1, "ssm.inner_size": 256,
    "ssm.time_step_rank": 128, "attention.head_count_kv": [2, 2, 2],
}  # fmt: skip
MINISTRAL = {
    "rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "original_max_position_embeddings": 4,
    "mscale": 1.0, "mscale_all_dim": 0.5, "llama_4_scaling_beta": 0.5,
}  # fmt: skip
# What llama.cpp has as constants, and so its files don't state: chunks of 8,192 tokens in all layers but each
# fourth.
LLAMA4 = {
    "num_local_experts": 5, "num_experts_per_tok": 2, "intermediate_size": 96, "intermediate_size_mlp": 64,
    "interleave_moe_layer_step": 2, "num_hidden_layers": 5, "head_dim": 32, "attention_chunk_size": 8192,
    "tie_word_embeddings": False,
}  # fmt: skip
SCOUT = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
DIALECTS = {
    "mixtral": Dialect(
        "mixtral", ARCH.LLAMA, {**MIXTRAL, "sliding_window": 7},
        {**RMS, **USED, "rope.freq_base": 5e5, "attention.sliding_window": 7},
    ),
    "qwen2_moe": Dialect(
        "qwen2_moe", ARCH.QWEN2MOE, {**QWEN, "shared_expert_intermediate_size": 96},
        {**RMS, **USED, "rope.freq_base": 5e5, "expert_feed_forward_length": 32,
         "expert_shared_feed_forward_length": 96},
    ),
    "qwen2_moe, older": Dialect(
        "qwen2_moe", ARCH.QWEN2MOE, {**QWEN, "shared_expert_intermediate_size": 64},
        {**RMS, **USED, "rope.freq_base": 5e5}, older=True,
    ),
    "qwen3_moe": Dialect(
        "qwen3_moe", ARCH.QWEN3MOE, {**QWEN, "norm_topk_prob": True, "head_dim": 16},
        {**RMS, **USED, "rope.freq_base": 5e5, "expert_feed_forward_length": 32, "attention.key_length": 16,
         "attention.value_length": 16},
    ),
    # The text models of Qwen's models that read images: those of Qwen, with other positions for images.
    "qwen2vl": Dialect(
        "qwen2", ARCH.QWEN2VL, {"rope_parameters": THETA},
        {**RMS, "rope.freq_base": 5e5, "rope.dimension_sections": [4, 6, 6, 0]},
    ),
    "qwen3vl": Dialect(
        "qwen3", ARCH.QWEN3VL, {"rope_parameters": THETA, "head_dim": 32},
        {**RMS, **HEADS, "rope.freq_base": 5e5, "rope.dimension_sections": [6, 5, 5, 0],
         "n_deepstack_layers": 3},
    ),
    "qwen3vlmoe": Dialect(
        "qwen3_moe", ARCH.QWEN3VLMOE, {**QWEN, "norm_topk_prob": True, "head_dim": 16},
        {**RMS, **USED, "rope.freq_base": 5e5, "expert_feed_forward_length": 32, "attention.key_length": 16,
         "attention.value_length": 16, "rope.dimension_sections": [3, 3, 2, 0], "n_deepstack_layers": 3},
    ),
    "gemma": Dialect("gemma", ARCH.GEMMA, GEMMA, {**RMS, **HEADS}),
    "gemma2": Dialect(
        "gemma2", ARCH.GEMMA2, {**GEMMA, "query_pre_attn_scalar": 32, "sliding_window": 7},
        {**RMS, **HEADS, **CAPS, "attention.sliding_window": 7},
    ),
    "gemma2, of defaults": Dialect(
        "gemma2", ARCH.GEMMA2, {**GEMMA, "query_pre_attn_scalar": 32}, {**RMS, **HEADS}
    ),
    "gemma2, of 27 billion": Dialect(
        "gemma2", ARCH.GEMMA2,
        {"head_dim": 16, "query_pre_attn_scalar": 32, "num_hidden_layers": 46, "sliding_window": 7},
        {**RMS, **CAPS, "attention.key_length": 16, "attention.value_length": 16, "block_count": 46,
         "attention.sliding_window": 7},
    ),
    "gemma3n": Dialect(
        "gemma3n_text", ARCH.GEMMA3N,
        {**PER_LAYER, "layer_types": [*SLIDES_AND_SEES, "sliding_attention", *SLIDES_AND_SEES],
         "num_hidden_layers": 5, "num_kv_shared_layers": 2, "altup_active_idx": 1, "laurel_rank": 12,
         "activation_sparsity_pattern": [0.95, 0.6, 0.0, 0.3, 0.0], "rope_parameters": TWO_THETAS},
        {**RMS, **HEADS, **PER_LAYER_KEYS, "block_count": 5, "attention.shared_kv_layers": 2,
         "attention.sliding_window_pattern": [True, False, True, True, False],
         "altup.active_idx": 1, "altup.num_inputs": 4,
         "activation_sparsity_scale": [quantile(share) for share in (0.95, 0.6, 0.0, 0.3, 0.0)]},
    ),
    "gemma4": Dialect(
        "gemma4_text", ARCH.GEMMA4,
        {**PER_LAYER, **GEMMA4, "num_kv_shared_layers": 2, "use_double_wide_mlp": True},
        {**RMS, **PER_LAYER_KEYS, **GEMMA4_KEYS, "attention.shared_kv_layers": 2,
         "feed_forward_length": [64, 64, 64, 128, 128]},
    ),
    "gemma4, keys as values": Dialect(
        "gemma4_text", ARCH.GEMMA4,
        {**PER_LAYER, **GEMMA4, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
         "attention_k_eq_v": True, "num_global_key_value_heads": 1},
        {**RMS, **PER_LAYER_KEYS, **GEMMA4_KEYS, "embedding_length_per_layer_input": 0,
         "attention.shared_kv_layers": 0, "attention.head_count_kv": [2, 1, 2, 2, 1]},
    ),
    "gemma4, a mixture": Dialect(
        "gemma4_text", ARCH.GEMMA4,
        {**PER_LAYER, **GEMMA4, "hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0,
         "enable_moe_block": True, "num_experts": 5, "top_k_experts": 2, "moe_intermediate_size": 32},
        {**RMS, **PER_LAYER_KEYS, **GEMMA4_KEYS, **USED, "embedding_length_per_layer_input": 0,
         "attention.shared_kv_layers": 0, "expert_feed_forward_length": 32},
    ),
    "gemma3": Dialect(
        "gemma3_text", ARCH.GEMMA3,
        {**GEMMA, "query_pre_attn_scalar": 32, "sliding_window": 7, "num_hidden_layers": 7,
         "rope_parameters": THETAS},
        {**RMS, **HEADS, "attention.sliding_window": 7, "block_count": 7, "rope.freq_base": 1e6,
         "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
    ),
    "stablelm": Dialect(
        "stablelm", ARCH.STABLELM, {**STABLE, "use_qkv_bias": True},
        {**LAYER, "rope.dimension_count": 16, "use_parallel_residual": True}, "layer_norm_eps",
    ),
    "stablelm, of 12 billion": Dialect(
        "stablelm", ARCH.STABLELM, {**STABLE, "qk_layernorm": True, "use_parallel_residual": True},
        {**LAYER, "rope.dimension_count": 16, "use_parallel_residual": True}, "layer_norm_eps",
    ),
    "olmo2": Dialect("olmo2", ARCH.OLMO2, {"rope_parameters": THETA}, {**RMS, "rope.freq_base": 5e5}),
    "olmo": Dialect(
        "olmo", ARCH.OLMO, {"rope_parameters": LOCAL, "clip_qkv": 8.0},
        {"attention.layer_norm_epsilon": 1e-5, "attention.clamp_kqv": 8.0}, None,
    ),
    "olmo3": Dialect(
        "olmo3", ARCH.OLMO2,
        {"sliding_window": 7, "num_hidden_layers": 5, "rope_parameters": SCALED,
         "layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"]},
        {**RMS, "block_count": 5, "rope.freq_base": 5e5, "rope.scaling.type": "yarn",
         "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128,
         "attention.sliding_window": 7,
         "attention.sliding_window_pattern": [False, True, False, True, False]},
    ),
    "olmo3, of defaults": Dialect(
        "olmo3", ARCH.OLMO2, {"sliding_window": 7, "num_hidden_layers": 5, "rope_parameters": SCALED},
        {**RMS, "block_count": 5, "rope.freq_base": 5e5, "rope.scaling.type": "yarn",
         "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128,
         "attention.sliding_window": 7},
    ),
    "olmoe": Dialect(
        "olmoe", ARCH.OLMOE, {"num_experts": 5, "num_experts_per_tok": 2, "rope_parameters": THETA},
        {**RMS, **USED, "rope.freq_base": 5e5},
    ),
    "phi": Dialect(
        "phi", ARCH.PHI2, {"rope_parameters": {**LOCAL, "partial_rotary_factor": 0.5}},
        {**LAYER, "rope.dimension_count": 16}, "layer_norm_eps",
    ),
    "glm": Dialect("glm", ARCH.CHATGLM, GLM, {**RMS, "rope.dimension_count": 16, "rope.freq_base": 5e5}),
    "glm4": Dialect(
        "glm4", ARCH.GLM4, {**GLM, "attention_bias": False},
        {**RMS, **HEADS, "rope.dimension_count": 16, "rope.freq_base": 5e5},
    ),
    "glm4_moe": Dialect(
        "glm4_moe", ARCH.GLM4_MOE, {**GLM, **DEEPSEEK, "n_shared_experts": 1, "use_qk_norm": True},
        {**RMS, **HEADS, **CHOSEN, "rope.dimension_count": 16, "rope.freq_base": 5e5,
         "expert_shared_count": 1},
    ),
    "dots1": Dialect(
        "dots1", ARCH.DOTS1, {**DEEPSEEK, "n_shared_experts": 2, "rope_parameters": LOCAL},
        {**RMS, **CHOSEN, "expert_shared_count": 2},
    ),
    "minimax_m2": Dialect(
        "minimax_m2", ARCH.MINIMAXM2, {**MIXTRAL, "rotary_dim": 16},
        {**RMS, **HEADS, **USED, "rope.freq_base": 5e5, "rope.dimension_count": 16,
         "expert_feed_forward_length": 64, "expert_gating_func": 2},
    ),
    "ernie4_5": Dialect(
        "ernie4_5", ARCH.ERNIE4_5, {"head_dim": 32, "rope_parameters": THETA},
        {**RMS, **HEADS, "rope.freq_base": 5e5, "rope.dimension_count": 32},
    ),
    "command-r": Dialect(
        "cohere", ARCH.COMMAND_R, {"rope_parameters": THETA, "logit_scale": 0.25, "use_qk_norm": True},
        {**LAYER, "rope.freq_base": 5e5, "logit_scale": 0.25, "rope.scaling.type": "none"}, "layer_norm_eps",
    ),
    "exaone4": Dialect(
        "exaone4", ARCH.EXAONE4, {"rope_parameters": THETA, "sliding_window": 7, "sliding_window_pattern": 2},
        {**RMS, "rope.freq_base": 5e5, "attention.sliding_window": 7,
         "attention.sliding_window_pattern": [True, False, True]},
    ),
    "exaone4, of defaults": Dialect(
        "exaone4", ARCH.EXAONE4, {"rope_parameters": THETA, "num_hidden_layers": 5},
        {**RMS, "rope.freq_base": 5e5, "attention.sliding_window": 4096, "block_count": 5},
    ),
    "cohere2": Dialect(
        "cohere2", ARCH.COHERE2,
        {"rope_parameters": THETA, "logit_scale": 0.25, "sliding_window": 7, "num_hidden_layers": 5},
        {**LAYER, "rope.freq_base": 5e5, "logit_scale": 0.25, "rope.scaling.type": "none", "block_count": 5,
         "rope.dimension_count": 32, "attention.sliding_window": 7},
        "layer_norm_eps",
    ),
    "nemotron": Dialect(
        "nemotron", ARCH.NEMOTRON,
        {"rope_parameters": {**THETA, "partial_rotary_factor": 0.5}, "attention_bias": True,
         "mlp_bias": True},
        {**LAYER, **RMS, "rope.freq_base": 5e5, "rope.dimension_count": 16, "rope.scaling.type": "none"},
        "norm_eps",
    ),
    "nemotron, linear": Dialect(
        "nemotron", ARCH.NEMOTRON,
        {"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5,
                             "partial_rotary_factor": 0.5}, "head_dim": 16},
        {**LAYER, "rope.freq_base": 5e5, "rope.dimension_count": 8, "rope.scaling.type": "linear",
         "rope.scaling.factor": 8.0, "attention.key_length": 16, "attention.value_length": 16},
        "norm_eps",
    ),
    "granitemoe": Dialect(
        "granitemoe", ARCH.GRANITE_MOE, {**MIXTRAL, **GRANITE, "attention_bias": True},
        {**RMS, **USED, **SCALES, "rope.freq_base": 5e5},
    ),
    "granitemoehybrid": Dialect(
        "granitemoehybrid", ARCH.GRANITE,
        {**HYBRID, "num_local_experts": 0, "shared_intermediate_size": 64},
        {**RMS, **SCALES, **STATES, "rope.freq_base": 5e5, "expert_count": 0, "expert_used_count": 0,
         "expert_shared_feed_forward_length": 64, "rope.scaling.finetuned": True},
    ),
    "granitemoehybrid, with experts": Dialect(
        "granitemoehybrid", ARCH.GRANITE_MOE,
        {**MIXTRAL, **HYBRID, "shared_intermediate_size": 96, "position_embedding_type": "nope"},
        {**RMS, **SCALES, **STATES, **USED, "expert_shared_feed_forward_length": 96,
         "rope.scaling.finetuned": False},
    ),
    "gpt-oss": Dialect(
        "gpt_oss", ARCH.GPT_OSS,
        {**MIXTRAL, "sliding_window": 7, "num_hidden_layers": 3, "rope_parameters": WHOLE_PAIRS},
        {**RMS, **HEADS, **USED, "rope.freq_base": 1.5e5, "rope.scaling.type": "yarn",
         "rope.scaling.factor": 32.0, "rope.scaling.original_context_length": 128,
         "attention.sliding_window": 7, "expert_feed_forward_length": 64},
    ),
    "hunyuan-dense": Dialect(
        "hunyuan_v1_dense", ARCH.HUNYUAN_DENSE,
        {"head_dim": 4, "rope_parameters": {**LOCAL, "rope_type": "dynamic", "alpha": 50.0, "factor": 1.0}},
        {**RMS, "attention.key_length": 4, "attention.value_length": 4, "rope.freq_base": 1e4 * 50.0**2,
         "rope.scaling.type": "none", "rope.scaling.factor": 1.0,
         "rope.scaling.original_context_length": 262_144},
    ),
    "mistral3": Dialect(
        "ministral3", ARCH.MISTRAL3, {"head_dim": 32, "rope_parameters": MINISTRAL},
        {**RMS, **HEADS, "rope.dimension_count": 32,
         "rope.freq_base": 5e5, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
         "rope.scaling.original_context_length": 4, "rope.scaling.yarn_beta_fast": 32.0,
         "rope.scaling.yarn_beta_slow": 1.0, "rope.scaling.yarn_log_multiplier": 0.5,
         "attention.temperature_scale": 0.5},
    ),
    "mistral3, without a scale of queries": Dialect(
        "ministral3", ARCH.MISTRAL3,
        {"head_dim": 32,
         "rope_parameters": {**MINISTRAL, "mscale_all_dim": 0.0, "llama_4_scaling_beta": 0.0}},
        {**RMS, **HEADS, "rope.dimension_count": 32,
         "rope.freq_base": 5e5, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
         "rope.scaling.original_context_length": 4, "rope.scaling.yarn_log_multiplier": 0.0,
         "attention.temperature_scale": 0.0},
    ),
    "lfm2": Dialect(
        "lfm2", ARCH.LFM2,
        {"rope_parameters": THETA, "full_attn_idxs": [1], "intermediate_size": 90, "block_multiple_of": 8},
        {**RMS, "rope.freq_base": 5e5, "attention.head_count_kv": [0, 2, 0], "shortconv.l_cache": 3,
         "vocab_size": 40},
        "norm_eps",
    ),
    "deepseek_v2": Dialect(
        "deepseek_v2", ARCH.DEEPSEEK2,
        {**LATENT, "rope_parameters": THETA, "q_lora_rank": None, "topk_group": 1,
         "topk_method": "group_limited_greedy"},
        {**LATENTS, **EXPANDED, "expert_group_used_count": 1},
        None,
    ),
    "deepseek_v3": Dialect(
        "deepseek_v3", ARCH.DEEPSEEK2,
        {**LATENT, "rope_parameters": ALL_DIMS, "q_lora_rank": 40, "topk_group": 2},
        {**LATENTS, **ABSORBED, "expert_group_used_count": 2, "attention.q_lora_rank": 40,
         "expert_weights_norm": True, "expert_gating_func": 2, "rope.scaling.type": "yarn",
         "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128,
         "rope.scaling.yarn_log_multiplier": 0.125},
        None,
    ),
    "deepseek_v32": Dialect(
        "deepseek_v32", ARCH.GLM_DSA,
        {**LATENT, **INDEXED, "rope_parameters": ALL_DIMS, "topk_group": 2},
        {**LATENTS, **ABSORBED, **INDEXER, "expert_group_used_count": 2, "rope.scaling.type": "yarn",
         "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 128,
         "rope.scaling.yarn_log_multiplier": 0.125},
        None, name="deepseek32",
    ),
    "glm_moe_dsa": Dialect(
        "glm_moe_dsa", ARCH.GLM_DSA,
        {**LATENT, **INDEXED, "rope_parameters": THETA, "topk_group": 2, "num_hidden_layers": 5,
         "indexer_types": ["full", "full", "shared", "full", "shared"]},
        {**LATENTS, **ABSORBED, **INDEXER, "expert_group_used_count": 2, "block_count": 5,
         "attention.indexer.types": [True, True, False, True, False]},
        None,
    ),
    "mistral4": Dialect(
        "mistral4", ARCH.MISTRAL4,
        {**LATENT, "q_lora_rank": 40, "topk_group": 2,
         "rope_parameters": {**ALL_DIMS, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5}},
        {**LATENTS, **ABSORBED, "expert_group_used_count": 2, "attention.q_lora_rank": 40,
         "expert_weights_norm": True, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
         "rope.scaling.original_context_length": 128, "rope.scaling.yarn_log_multiplier": 0.1,
         "attention.temperature_scale": 0.5, "attention.temperature_length": 128},
        None,
    ),
    "glm_moe_dsa, older": Dialect(
        "glm_moe_dsa", ARCH.GLM_DSA,
        {**LATENT, **INDEXED, "rope_parameters": THETA, "topk_group": 2, "num_hidden_layers": 5,
         "indexer_types": ["full"] * 3 + ["shared"] * 2, "max_position_embeddings": 2**20},
        {**LATENTS, **ABSORBED, **OLDER_INDEXER, "expert_group_used_count": 2, "block_count": 5,
         "context_length": 2**20},
        None,
    ),
    "internlm2": Dialect(
        "internlm2", ARCH.INTERNLM2, {"rope_parameters": THETA, "bias": False},
        {**RMS, "rope.freq_base": 5e5},
    ),
    "starcoder2": Dialect(
        "starcoder2", ARCH.STARCODER2, {"rope_parameters": THETA}, {**LAYER, "rope.freq_base": 5e5},
        "norm_epsilon",
    ),
    "starcoder2, without biases": Dialect(
        "starcoder2", ARCH.STARCODER2,
        {"rope_parameters": LOCAL, "use_bias": False, "head_dim": 16, "sliding_window": 7,
         "tie_word_embeddings": False},
        {**LAYER, "attention.key_length": 16, "attention.value_length": 16, "attention.sliding_window": 7},
        "norm_epsilon",
    ),
    "lfm2_moe": Dialect(
        "lfm2_moe", ARCH.LFM2MOE,
        {"rope_parameters": THETA, "layer_types": ["conv", "full_attention", "conv"], "num_experts": 5,
         "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_dense_layers": 1},
        {**RMS, **USED, "rope.freq_base": 5e5, "attention.head_count_kv": [0, 2, 0], "shortconv.l_cache": 3,
         "expert_feed_forward_length": 32, "leading_dense_block_count": 1, "expert_gating_func": 2},
        "norm_eps",
    ),
    "qwen3next": Dialect("qwen3_next", ARCH.QWEN3NEXT, {**SHARED, **DELTA}, {**SHARING, **DELTAS}),
    "qwen3next, older": Dialect(
        "qwen3_next", ARCH.QWEN3NEXT, {**SHARED, **DELTA}, {**SHARING, **DELTAS}, older=True
    ),
    "qwen35": Dialect(
        "qwen3_5_text", ARCH.QWEN35, DELTA, {**DELTAS, "rope.dimension_sections": [3, 3, 2, 0]}
    ),
    "qwen35moe": Dialect(
        "qwen3_5_moe_text", ARCH.QWEN35MOE, {**SHARED, **DELTA},
        {**SHARING, **DELTAS, "rope.dimension_sections": [3, 3, 2, 0]},
    ),
    "apertus": Dialect(
        "apertus", ARCH.APERTUS, {"rope_parameters": THETA, "attention_bias": True},
        {**RMS, "rope.freq_base": 5e5},
    ),
    "llama4": Dialect(
        "llama4_text", ARCH.LLAMA4, {**LLAMA4, "rope_parameters": SCOUT},
        {**RMS, **HEADS, **USED, "rope.freq_base": 5e5, "expert_feed_forward_length": 96,
         "interleave_moe_layer_step": 2, "block_count": 5},
    ),
    "llama4, 128 experts": Dialect(
        "llama4_text", ARCH.LLAMA4,
        {**LLAMA4, "rope_parameters": THETA, "num_local_experts": 128, "use_qk_norm": False,
         "interleave_moe_layer_step": 4},
        {**RMS, **HEADS, "expert_count": 128, "expert_used_count": 2, "rope.freq_base": 5e5,
         "expert_feed_forward_length": 96, "interleave_moe_layer_step": 4, "block_count": 5},
    ),
    "kimi_linear": Dialect("kimi_linear", ARCH.KIMI_LINEAR, KIMI, KIMIS, None),
}  # fmt: skip


def original(dialect: Dialect) -> torch.nn.Module:
    """transformers' model, all of its weights random."""
    row = ROWS[dialect.family]
    epsilon = {} if dialect.epsilon is None else {dialect.epsilon: EPS}
    keys = {**SIZES, **epsilon, **copy.deepcopy(dialect.keys)}  # transformers changes rope_parameters
    model = row.models[0](row.config(**keys)).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise))
        row.amend(model)
    return model


PERMUTED = ("ministral3", "mixtral", "granitemoe", "granitemoehybrid", "internlm2", "olmo")


def unfused(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """InternLM 2's queries, keys and values, which are stored group by group, one after the other."""
    parts: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if "wqkv" not in name:
            parts[name] = array
            continue
        q, k, v = np.split(array.reshape(2, 4, 32, -1), [2, 3], axis=1)
        for part, rows in {"q": q, "k": k, "v": v}.items():
            parts[name.replace("attention.wqkv", f"self_attn.{part}_proj")] = rows.reshape(-1, array.shape[1])
    return parts


def parted(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """gpt-oss' experts, gate and up apart and outputs first, under names with their kind."""
    parts: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        base, kind = re.sub("(_proj)_bias$", r"\1", name), "bias" if name.endswith("_bias") else "weight"
        if ".experts." not in name:
            parts[name + (".weight" if name.endswith("sinks") else "")] = array
            continue
        array = array if kind == "bias" else array.swapaxes(1, 2)
        if "gate_up" in name:
            for i, side in enumerate(("gate", "up")):
                parts[f"{base.replace('gate_up', side)}.{kind}"] = array[:, i::2]
        else:
            parts[f"{base}.{kind}"] = array
    return parts


def unmerged(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """DeepSeek's map of a latent to keys and values in two, the keys' with its input first."""
    parts: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if "kv_b_proj" not in name:
            parts[name] = array
            continue
        k, v = np.split(array.reshape(4, 24, 24), [8], axis=1)
        parts |= {name.replace("kv_b", "k_b"): k.swapaxes(1, 2), name.replace("kv_b", "v_b"): v}
    return parts


def unmerged_joined(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same of Mistral 4, whose experts are joined, and get names with their kind."""
    return {f"{n}.weight" if ".experts." in n else n: array for n, array in unmerged(tensors).items()}


def by_kind(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Qwen3-Next's queries, keys and values, and its gates, apart: they are stored by key head."""
    parts: dict[str, np.ndarray] = {}
    for name, array in rates(tensors).items():
        if "in_proj_qkvz" not in name:
            parts[name] = array
            continue
        of_heads = [np.split(head, [8, 16, 64]) for head in np.split(array, 2)]
        q, k, v, z = (np.concatenate(kind) for kind in zip(*of_heads, strict=True))
        parts[name.replace("qkvz", "qkv")] = np.concatenate([q, k, v])
        parts[name.replace("qkvz", "z")] = z
    return parts


def in_turn(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Qwen 3.5's value heads, one of each key head in turn: 0 3 1 4 2 5."""
    heads = [0, 3, 1, 4, 2, 5]
    rows = {"in_proj_qkv": (32, 16), "in_proj_z": (0, 16), "conv1d": (32, 16)}
    parts = rates(tensors)
    for name, array in parts.items():
        if "linear_attn." not in name or "linear_attn.norm" in name:
            continue
        part = name.split(".")[-2] if name.endswith("weight") else ""
        if part == "out_proj":
            parts[name] = array.reshape(len(array), 6, 16)[:, heads].reshape(array.shape)
            continue
        before, size = rows.get(part, (0, 1))
        values = array[before:].reshape(6, size, *array.shape[1:])[heads].reshape(array[before:].shape)
        parts[name] = np.concatenate([array[:before], values])
    return parts


def of_channels(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kimi Linear's rates and kernels, which alone have four axes, and the dense mlp by its name."""
    parts: dict[str, np.ndarray] = {}
    for name, array in rates(unmerged(tensors)).items():
        if name.endswith("A_log"):
            array = array[None, None, :, None]
        elif "conv1d" in name:
            array = array[None, :, None]
        parts[name.replace("layers.0.block_sparse_moe", "layers.0.mlp")] = array
    return parts


def rates(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rates of decay as their exponentials, negated, and their biases as those of a map."""
    named = {name.replace(".dt_bias", ".dt_proj.bias"): array for name, array in tensors.items()}
    return {name: -np.exp(a) if name.endswith("A_log") else a.squeeze() for name, a in named.items()}


def by_part(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """LFM2's experts under the names of other mixtures."""

    def named(match: re.Match[str]) -> str:
        return f"mlp.experts.{match[1]}.{ {'1': 'gate', '2': 'down', '3': 'up'}[match[2]] }_proj"

    pattern = r"feed_forward\.experts\.(\d+)\.w(\d)"
    return {re.sub(pattern, named, name): array for name, array in tensors.items()}


def gates_apart(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Llama 4's experts, which are stored inputs first, outputs first, and their gates apart."""
    parts: dict[str, np.ndarray] = {}
    for name, array in tensors.items():
        if "experts.gate_up_proj" in name:
            halves = zip(("gate", "up"), np.split(array.swapaxes(1, 2), 2, axis=1), strict=True)
            parts |= {f"{name.replace('gate_up', side)}.weight": half for side, half in halves}
        elif name.endswith("experts.down_proj"):
            parts[f"{name}.weight"] = array.swapaxes(1, 2)
        else:
            parts[name] = array
    return parts


def of_streams(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The maps of Gemma 3n's streams, each kind in one tensor."""
    parts = {f"{n}.weight" if n.endswith("_scale") else n: array for n, array in tensors.items()}
    for kind in ("altup_projections", "altup_unembed_projections"):
        maps = [parts.pop(f"model.{kind}.{i}.weight") for i in range(3)]
        parts[f"model.{kind}.weight"] = np.stack(maps)
    return parts


def with_divisors(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gemma 4's numbers under names with their kind, those of a mixture under others' names; and divisors of
    frequencies, of which the converter makes those of pairs that aren't rotated."""
    parts = {"rope_freqs.weight": np.array([1.0] * 8 + [1e30] * 24, np.float32)}
    for name, array in tensors.items():
        layer = next(iter(re.findall(r"\d+", name)), "")
        if name.endswith("router.scale"):
            name = f"blk.{layer}.ffn_gate_inp.scale"
        elif name.endswith("per_expert_scale"):
            name = f"blk.{layer}.ffn_down_exps.scale"
        elif name.endswith(("layer_scalar", "_up_proj", "experts.down_proj")):
            name = f"{name}.weight"
        parts[name] = array
    return parts


CHANGES = {
    "gemma3n_text": of_streams, "gemma4_text": with_divisors,
    "llama4_text": gates_apart,
    "lfm2_moe": by_part, "gpt_oss": parted, "deepseek_v3": unmerged, "deepseek_v32": unmerged,
    "glm_moe_dsa": unmerged, "mistral4": unmerged_joined, "qwen3_next": by_kind,
    "kimi_linear": of_channels,
    "qwen3_5_text": in_turn, "qwen3_5_moe_text": in_turn,
}  # fmt: skip


def fused_granite(
    dialect: Dialect, match: re.Match[str], array: np.ndarray
) -> dict[str, dict[int, np.ndarray]]:
    """Both halves of Granite's gated mlps, of its experts or of the one that takes every token."""
    layer, kind, side = match.groups()
    end = "exps" if kind == "block_sparse_moe" else "shexp" if dialect.keys.get("num_local_experts") else ""
    parts = {"down": array}
    if side == "input":
        parts = dict(zip(("gate", "up"), np.split(array, 2, axis=-2), strict=True))
    suffix = f"_{end}" if end else ""
    return {f"blk.{layer}.ffn_{part}{suffix}.weight": {-1: half} for part, half in parts.items()}


def converted(dialect: Dialect, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What llama.cpp's converter makes of a checkpoint's tensors, under its names."""
    names = gguf.get_tensor_name_map(dialect.arch, 99)
    made: dict[str, dict[int, np.ndarray]] = {}
    change = rates if dialect.older else CHANGES.get(dialect.family, unfused)
    changed = change(tensors)
    for name, array in changed.items():
        if dialect.family in PERMUTED and ("q_proj" in name or "k_proj" in name):
            array = array.reshape(-1, 2, 16, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        less_one = dialect.family.startswith(("gemma", "nemotron", "qwen3_next", "qwen3_5"))
        less_one = less_one and dialect.family not in ("gemma3n_text", "gemma4_text")
        if less_one and name.endswith("norm.weight") and "linear_attn" not in name:
            array = array + 1
        if match := re.search(r"(\d+)\.(block_sparse_moe|shared_mlp)\.(input|output)_linear", name):
            made |= fused_granite(dialect, match, array)
            continue
        name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        name = name.replace("expert_bias", "expert_bias.bias")
        # Experts, and the norms of StableLM's heads, become one tensor.
        which = re.search(r"(?:experts|norms)\.(\d+)\.", name)
        whole = re.sub(r"experts\.\d+", "experts", re.sub(r"\.norms\.\d+", "", name))
        renamed = whole
        if not whole.startswith(("blk.", "rope_freqs.")):
            renamed = names.get_name(whole, try_suffixes=(".weight", ".bias"))
        assert renamed is not None, name
        made.setdefault(renamed, {})[int(which[1]) if which else -1] = array
    return {
        name: parts[-1]
        if -1 in parts and (parts[-1].ndim == 4 or ("gate_inp_shexp" in name and not dialect.older))
        else np.atleast_1d(parts[-1].squeeze())
        if -1 in parts
        else np.stack([parts[i] for i in range(len(parts))])
        for name, parts in made.items()
    }


def write_gguf(path: Path, dialect: Dialect, tensors: dict[str, np.ndarray], kind: str = "F32") -> None:
    """A file by gguf's own writer."""
    name = dialect.name or gguf.MODEL_ARCH_NAMES[dialect.arch]
    writer = gguf.GGUFWriter(path, name)
    add = {
        int: lambda key, value: (writer.add_int32 if value < 0 else writer.add_uint32)(key, value),
        float: writer.add_float32, bool: writer.add_bool, str: writer.add_string, list: writer.add_array,
    }  # fmt: skip
    for key, value in (METADATA | dialect.metadata).items():
        add[type(value)](key[1:] if key.startswith(":") else f"{name}.{key}", value)
    for name, array in tensors.items():
        blocks = array.ndim > 1 and array.shape[-1] % 32 == 0
        stored = gguf.GGMLQuantizationType[kind if blocks else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(array, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[str], tuple[Dialect, dict[str, np.ndarray]]]:
    """Saves a dialect's model as transformers does, and gives the tensors of its GGUF."""

    def save(name: str) -> tuple[Dialect, dict[str, np.ndarray]]:
        dialect = DIALECTS[name]
        original(dialect).save_pretrained(tmp_path)
        tensors = load_file(tmp_path / "model.safetensors")
        # Numbers of xIELU are metadata.
        curves = {key: tensors.pop(key) for key in sorted(tensors) if ".act_fn." in key}
        numbers = {
            f":xielu.{end}": [value.item() for key, value in curves.items() if key.endswith(end)]
            for end in ("alpha_p", "alpha_n", "beta", "eps")
        }
        made = converted(dialect, tensors)
        if dialect.keys.get("rope_parameters") == SCOUT:
            wavelengths = 2 * np.pi * 5e5 ** (np.arange(16) / 16)
            made["rope_freqs.weight"] = np.where(wavelengths < 8192, 1, 16).astype(np.float32)
        return replace(dialect, metadata=dialect.metadata | (numbers if curves else {})), made

    return save


@pytest.mark.parametrize("name", DIALECTS)
def test_both_dialects_give_equal_leaves(tmp_path, saved, name):
    dialect, tensors = saved(name)
    write_gguf(tmp_path / "model.gguf", dialect, tensors)
    one, other = open_checkpoint(tmp_path), open_checkpoint(tmp_path / "model.gguf")
    stated = json.dumps(to_json(one.config))
    read = json.dumps(to_json(other.config))
    if dialect.epsilon is None:  # fixed, and no number that GGUF holds
        for number in (1e-5, 1e-6):
            read = read.replace(str(np.float32(number).item()), str(number))
    assert read == stated
    want = dict(flatten(one.params))
    for leaf, got in flatten(other.params):
        if leaf.endswith("a_log"):  # stored as its exponential
            np.testing.assert_allclose(got, want[leaf], rtol=0, atol=1e-6)
        else:
            assert np.array_equal(got, want[leaf]), leaf


def test_norms_of_kimi_linears_mixers_have_the_files_eps(tmp_path, saved):
    """As llama.cpp computes them; transformers' class has a constant in those of latents."""
    dialect, tensors = saved("kimi_linear")
    write_gguf(tmp_path / "x.gguf", replace(dialect, metadata=dialect.metadata | RMS), tensors)
    config = open_checkpoint(tmp_path / "x.gguf").config
    mixers = [layer.attention for layer in config.layers]
    assert [mixer.norm_eps for mixer in mixers if isinstance(mixer, LatentAttention)] == [EPS]
    assert [mixer.eps for mixer in mixers if isinstance(mixer, GatedDelta)] == [EPS] * 2


@pytest.mark.parametrize("name", ["phi", "glm"])
def test_queries_keys_and_values_may_be_fused(tmp_path, saved, name):
    dialect, tensors = saved(name)
    both, fused = dict(tensors), dict(tensors)
    for i in range(3):
        for kind in ("weight", "bias"):
            parts = [fused.pop(f"blk.{i}.attn_{part}.{kind}") for part in "qkv"]
            both[f"blk.{i}.attn_qkv.{kind}"] = fused[f"blk.{i}.attn_qkv.{kind}"] = np.concatenate(parts)
    write_gguf(tmp_path / "fused.gguf", dialect, fused)
    one, other = open_checkpoint(tmp_path), open_checkpoint(tmp_path / "fused.gguf")
    assert one.config == other.config
    want = dict(flatten(one.params))
    for leaf, got in flatten(other.params):
        assert np.array_equal(got, want[leaf]), leaf
    write_gguf(tmp_path / "both.gguf", dialect, both)
    with refused(CheckpointError, "tensor", 6, "'blk.0.attn_qkv"):
        open_checkpoint(tmp_path / "both.gguf")


@pytest.mark.parametrize(
    ("name", "hub", "left_out"),
    [
        ("glm4_moe", "model.layers.3.", "layers.3"),
        ("deepseek_v32", "model.layers.3.", "layers.3"),
        ("qwen3next", "mtp.", "mtp"),
        ("qwen35", "mtp.", "mtp"),
        ("qwen35moe", "mtp.", "mtp"),
    ],
)
def test_layers_that_predict_further_tokens_are_left_out(tmp_path, saved, name, hub, left_out):
    dialect, tensors = saved(name)
    write_gguf(tmp_path / "plain.gguf", dialect, tensors)
    plain = {end: open_checkpoint(tmp_path / end).config for end in ("", "plain.gguf")}
    draft = {"attn_norm.weight": np.ones(128, np.float32), "nextn.enorm.weight": np.ones(128, np.float32)}
    further = {f"blk.3.{name}": weight for name, weight in draft.items()}
    more = replace(dialect, metadata=dialect.metadata | {"block_count": 4, "nextn_predict_layers": 1})
    write_gguf(tmp_path / "x.gguf", more, tensors | further)
    weights = load_file(tmp_path / "model.safetensors")
    drafts = {f"{hub}{name}": weight for name, weight in draft.items()}
    save_file(weights | drafts, tmp_path / "model.safetensors")
    for path, part, end in ((tmp_path, left_out, ""), (tmp_path / "x.gguf", "blk.3", "plain.gguf")):
        opened = open_checkpoint(path)
        assert opened.config == plain[end]
        assert list(opened.left_out) == [part]
    write_gguf(
        tmp_path / "y.gguf", dialect, tensors | {"blk.4.nextn.enorm.weight": draft["attn_norm.weight"]}
    )
    with refused(CheckpointError, "tensor", 1, "'blk.4.nextn"):
        open_checkpoint(tmp_path / "y.gguf")


def test_a_module_that_predicts_further_tokens_is_that_of_safetensors(tmp_path, saved):
    """The last of three layers becomes GLM-4.5's module, its tensors under the names of gguf's own table."""
    dialect, tensors = saved("glm4_moe")
    weights = load_file(tmp_path / "model.safetensors")
    stated = json.loads((tmp_path / "config.json").read_text())
    width, rng = len(weights["model.norm.weight"]), np.random.default_rng(0)
    shapes = dict.fromkeys(("enorm", "hnorm", "shared_head.norm"), (width,)) | {"eh_proj": (width, 2 * width)}
    further = {
        f"model.layers.2.{name}.weight": rng.random(shape, np.float32) for name, shape in shapes.items()
    }
    for name, table in (("embed_tokens", "model.embed_tokens"), ("shared_head.head", "lm_head")):
        further[f"model.layers.2.{name}.weight"] = weights[f"{table}.weight"]
    save_file(weights | further, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps(stated | {"num_hidden_layers": 2, "num_nextn_predict_layers": 1, "num_mtp_layers": 1})
    )
    draft = renamed(dialect.arch, further, layers=3)
    assert sum(name.startswith("blk.2.nextn.") for name in draft) == 6
    more = replace(dialect, metadata=dialect.metadata | {"nextn_predict_layers": 1})
    write_gguf(tmp_path / "x.gguf", more, tensors | draft)
    one, other = (open_checkpoint(path, mtp=True) for path in (tmp_path, tmp_path / "x.gguf"))
    assert one.config == other.config
    want, got = dict(flatten(one.params)), dict(flatten(other.params))
    assert want.keys() == got.keys() > {"mtp.project", "mtp.layers.0.mlp.bias"}
    for leaf in want:
        assert np.array_equal(got[leaf], want[leaf]), leaf
    plain = open_checkpoint(tmp_path / "x.gguf")
    assert (plain.config, list(plain.left_out)) == (replace(one.config, mtp=None), ["blk.2"])
    table = {"blk.2.nextn.embed_tokens.weight": draft["blk.2.nextn.embed_tokens.weight"] + 1}
    write_gguf(tmp_path / "y.gguf", more, tensors | draft | table)
    with refused(CheckpointError, "nextn.embed_tokens.weight'", "embedding.table"):
        open_checkpoint(tmp_path / "y.gguf", mtp=True)
    write_gguf(tmp_path / "z.gguf", dialect, tensors)
    with refused(ConfigError, "predicts", "further"):
        open_checkpoint(tmp_path / "z.gguf", mtp=True)


EXPERTS = {
    "layers.1.mlp.experts.{}.gate": "blk.1.ffn_gate_exps.weight",
    "layers.1.mlp.experts.{}.down": "blk.1.ffn_down_exps.weight",
}
STREAMS = {"streams.{}.enter": "altup_proj.weight", "streams.{}.leave": "altup_unembd_proj.weight"}


@pytest.mark.parametrize(
    ("name", "kind", "parts", "count"),
    [
        ("qwen3_moe", "Q8_0", EXPERTS, 5),
        ("qwen3_moe", "Q4_1", EXPERTS, 5),
        ("gpt-oss", "MXFP4", EXPERTS, 5),
        ("gemma3n", "Q8_0", STREAMS, 3),
    ],
)
def test_parts_of_a_tensor_in_blocks(tmp_path, saved, name, kind, parts, count):
    dialect, tensors = saved(name)
    write_gguf(tmp_path / "model.gguf", dialect, tensors, kind)
    checkpoint, stored = open_checkpoint(tmp_path / "model.gguf"), gguf.GGMLQuantizationType[kind]
    for leaf, tensor in parts.items():
        whole = gguf.quants.dequantize(gguf.quants.quantize(tensors[tensor], stored), stored)
        for i in range(count):
            path = f"decoder.{leaf.format(i)}"
            blocks = checkpoint.native(path)
            assert blocks is not None
            assert np.array_equal(dequantize(blocks), whole[i].T)
            assert np.array_equal(checkpoint.leaf(path), whole[i].T)


def test_value_heads_in_blocks(tmp_path, saved):
    """Columns of blocks are in another order; rows aren't, where a block is of two heads."""
    dialect, tensors = saved("qwen35")
    write_gguf(tmp_path / "model.gguf", dialect, tensors, "Q8_0")
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    for leaf in ("wi", "wz"):
        blocks = checkpoint.native(f"decoder.layers.0.attn.{leaf}")
        assert blocks is not None
        assert np.array_equal(dequantize(blocks), checkpoint.leaf(f"decoder.layers.0.attn.{leaf}"))
    assert checkpoint.native("decoder.layers.0.attn.wo") is None
    mixer = GatedDelta(6, 2, key_size=8, value_size=16)
    step = STEPS["values_by_key_head"].bound("decoder.layers.0.attn.wo", mixer)
    rows = np.random.default_rng(0).standard_normal((96, 5)).astype(np.float32)
    blocks = quantize(rows, bits=8, block=16)
    assert step.takes(blocks)
    assert np.array_equal(dequantize(step.apply(blocks)), step.apply(dequantize(blocks)))


@pytest.mark.parametrize(
    ("name", "metadata", "message"),
    [
        ("mixtral", {"expert_used_count": 6}, "experts.*1.*5.*6"),
        ("mixtral", {"expert_weights_norm": False}, r"expert_weights_norm.*true.*llama\.cpp"),
        ("qwen2_moe", {"expert_weights_norm": True}, "expert_weights_norm.*false"),
        ("qwen2_moe", {"expert_group_count": 2}, "'expert_group_count'"),
        ("qwen2vl", {"rope.dimension_sections": [4, 6, 5, 1]}, "dimension_sections"),
        ("qwen2vl", {"rope.dimension_sections": 16}, r"rope\.dimension_sections"),
        ("qwen3vl", {"attention.head_count_kv": [2, 2, 2]}, "head_count_kv'"),
        ("starcoder2", {"attention.causal": False}, r"attention\.causal.*true.*False"),
        ("olmo2", {"attention.sliding_window_pattern": [True] * 3}, "sliding_window_pattern'"),
        ("olmo3", {"attention.sliding_window_pattern": [True]}, "sliding_window_pattern.*5"),
        ("olmo3", {"rope.freq_base_swa": 1e4}, r"freq_base_swa.*rope\.freq_base.*500000\.0"),
        ("glm4_moe", {"expert_gating_func": 1}, "expert_gating_func.*2.*1"),
        ("dots1", {"expert_group_count": 2}, "experts.*5.*2"),
        ("minimax_m2", {"expert_weights_norm": True}, "'expert_weights_norm'"),
        ("gpt-oss", {"attention.sliding_window_pattern": 3}, r"'attention\.sliding_window_pattern'"),
        ("deepseek_v2", {"expert_gating_func": 3}, "expert_gating_func.*2.*1"),
        ("deepseek_v2", {"attention.head_count_kv": 2}, "head_count_kv.*4.*2"),
        ("deepseek_v2", {"attention.key_length": 12}, r"key_length.*rope\.dimension_cou"),
        ("deepseek_v3", {"attention.head_count_kv": 4}, "head_count_kv.*1.*4"),
        ("deepseek_v3", {"attention.key_length": 20}, "key_length.*36.*20"),
        ("deepseek_v3", {"attention.value_length": 16}, "value_length.*24.*16"),
        ("deepseek_v3", {"rope.scaling.yarn_log_multiplier": 0.0}, "yarn_log_multiplier"),
        ("mistral4", {"rope.scaling.yarn_log_multiplier": 0.2}, r"multiplier.*0\.1.*mscale_al"),
        ("mistral4", {"attention.temperature_scale": -1.0}, "temperature_scale.*0"),
        ("mistral4", {"expert_gating_func": 3}, "expert_gating_func.*1"),
        ("glm4_moe", {"nextn_predict_layers": 3}, "nextn_predict_layers.*0"),
        ("glm4_moe", {"nextn_predict_layers": -1}, "nextn_predict_layers.*0"),
        ("glm_moe_dsa", {"attention.indexer.types": [True] * 4}, "types.*true.*false.*5"),
        ("glm_moe_dsa", {"attention.indexer.types": [False] * 5}, "5.*layers.*true"),
        ("glm_moe_dsa", {"attention.indexer.types": [1, 1, 0, 1, 0]}, "types.*true.*false"),
        ("glm_moe_dsa", {"attention.indexer.types": True}, r"indexer\.types"),
        ("deepseek_v32", {"attention.indexer.types": [True] * 3}, "types'"),
        ("deepseek_v32", {"attention.indexer.key_length": 11}, r"rope\.dimension_count.*12"),
        ("deepseek_v32", {"expert_gating_func": 1}, "expert_gating_func.*2.*1"),
        ("kimi_linear", {"expert_weights_norm": False}, r"expert_weights_norm.*true.*llama\.cpp"),
        ("lfm2", {"attention.head_count_kv": [0, 2, 1]}, r"0.*number.*\[0, 2, 1\]"),
        ("starcoder2", {"rope.dimension_count": 16}, r"rope\.dimension_count.*32"),
        ("gemma", {"attn_logit_softcapping": 50.0}, "'attn_logit_softcapping'"),
        ("command-r", {"attention.value_length": 16}, r"attention\.value_length.*32"),
        (
            "exaone4",
            {"attention.sliding_window_pattern": [True, False]},
            "sliding_window_pattern.*3.*true.*false",
        ),
        ("exaone4", {"attention.head_count_kv": [2, 2, 2]}, "value.*3"),
        ("granitemoe", {"attention.head_count_kv": [2, 2, 1]}, r"type.*\[2, 2, 1\]"),
        ("granitemoe", {"attention.head_count_kv": [2, 2]}, r"type.*\[2, 2\]"),
        ("cohere2", {"attention.sliding_window": 0}, r"attention\.sliding_window.*1"),
        ("nemotron", {"attention.layer_norm_rms_epsilon": 0.5}, r"attention\.layer_norm_eps"),
        ("stablelm", {"embedding_length": 127}, r"embedding_length.*attention\.head_count"),
        ("qwen35", {"ssm.inner_size": 97}, r"ssm\.inner_size.*ssm\.time_step_rank.*6"),
        ("qwen35moe", {"rope.dimension_sections": [3, 3, 1, 1]}, "sections"),
        ("qwen3next", {"rope.dimension_sections": 3}, r"'rope\.dimension_sections'"),
        ("gemma3n", {"altup.active_idx": 4}, r"altup\.active_idx.*0.*3.*altup\.num_inputs"),
        ("gemma3n", {"activation_sparsity_scale": [1.0] * 4}, "activation_sparsity_scale.*5"),
        ("gemma3n", {"activation_sparsity_scale": [float("nan")] * 5}, "quantile.*normal"),
        ("gemma3n", {"attention.shared_kv_layers": 5}, r"attention\.shared_kv_layers.*0.*4"),
        ("gemma4", {"attention.value_length": 32}, r"attention\.value_length.*64"),
        ("gemma4", {"rope.dimension_count_swa": 16}, r"rope\.dimension_count_swa.*32"),
        ("gemma4", {"feed_forward_length": [64, 128]}, "least.*1.*5"),
        ("gemma4", {"expert_count": 5}, "'expert_count'"),
        ("llama4", {"attention.sliding_window": 0}, r"attention\.sliding_window.*8192.*llama\.cpp"),
        ("qwen35", {":xielu.beta": 0.5}, r"'xielu\.beta'"),
    ],
)
def test_refused_metadata(tmp_path, saved, name, metadata, message):
    dialect, tensors = saved(name)
    write_gguf(tmp_path / "x.gguf", replace(dialect, metadata=dialect.metadata | metadata), tensors)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(tmp_path / "x.gguf")


@pytest.mark.parametrize(("key", "value"), [("beta", 0.75), ("eps", -1e-5)])
def test_another_xielu_is_refused(tmp_path, saved, key, value):
    """Its constants, and numbers of another model's layers."""
    dialect, tensors = saved("apertus")
    for name, numbers in ((f":xielu.{key}", [value] * 3), (":xielu.alpha_p", [0.5] * 4)):
        write_gguf(
            tmp_path / "x.gguf", replace(dialect, metadata=dialect.metadata | {name: numbers}), tensors
        )
        with pytest.raises(CheckpointError, match="xielu"):
            open_checkpoint(tmp_path / "x.gguf")


def test_a_vision_part_alone_is_refused_for_what_it_is(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "mmproj.gguf", "clip")
    writer.add_tensor("v.patch_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with refused(ConfigError, "(mmproj)"):
        open_checkpoint(tmp_path / "mmproj.gguf")


@pytest.mark.parametrize("experts", [4, 6])
def test_another_number_of_experts_than_the_tensors(tmp_path, saved, experts):
    dialect, tensors = saved("qwen3_moe")
    write_gguf(
        tmp_path / "x.gguf", replace(dialect, metadata=dialect.metadata | {"expert_count": experts}), tensors
    )
    with refused(CheckpointError, "ffn_gate_inp.weight'", f"[{experts}, 128]"):
        open_checkpoint(tmp_path / "x.gguf")

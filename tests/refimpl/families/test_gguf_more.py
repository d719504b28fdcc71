"""Both dialects of mixtures of experts, the Gemmas, StableLM, OLMo 2, Command R and StarCoder 2."""

from __future__ import annotations

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
from safetensors.numpy import load_file
from tfm.refimpl.checkpoint.open import open_checkpoint
from tfm.refimpl.errors import CheckpointError, ConfigError
from tfm.refimpl.ops.quant import dequantize
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
    epsilon: str = "rms_norm_eps"


ARCH = gguf.MODEL_ARCH
MIXTRAL = {"num_local_experts": 5, "num_experts_per_tok": 2, "head_dim": 32, "rope_parameters": THETA}
QWEN = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "rope_parameters": THETA}
GEMMA = {"head_dim": 32}
CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}  # also the defaults there
LOCAL = {"rope_type": "default", "rope_theta": 10_000.0}
THETAS = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": LOCAL,
}
STABLE = {"rope_parameters": {**LOCAL, "partial_rotary_factor": 0.5}}
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
        {**RMS, **USED, "rope.freq_base": 5e5},
    ),
    "qwen3_moe": Dialect(
        "qwen3_moe", ARCH.QWEN3MOE, {**QWEN, "norm_topk_prob": True, "head_dim": 16},
        {**RMS, **USED, "rope.freq_base": 5e5, "expert_feed_forward_length": 32, "attention.key_length": 16,
         "attention.value_length": 16},
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
    "command-r": Dialect(
        "cohere", ARCH.COMMAND_R, {"rope_parameters": THETA, "logit_scale": 0.25, "use_qk_norm": True},
        {**LAYER, "rope.freq_base": 5e5, "logit_scale": 0.25, "rope.scaling.type": "none"}, "layer_norm_eps",
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
}  # fmt: skip


def original(dialect: Dialect) -> torch.nn.Module:
    """transformers' model, all of its weights random."""
    row = ROWS[dialect.family]
    keys = {**SIZES, dialect.epsilon: EPS, **dialect.keys}
    model = row.models[0](row.config(**keys)).eval()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise))
    return model


def converted(dialect: Dialect, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What llama.cpp's converter makes of a checkpoint's tensors, under its names."""
    names = gguf.get_tensor_name_map(dialect.arch, 99)
    made: dict[str, dict[int, np.ndarray]] = {}
    for name, array in tensors.items():
        if dialect.family == "mixtral" and ("q_proj" in name or "k_proj" in name):
            array = array.reshape(-1, 2, 16, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        if dialect.family.startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        # Experts, and the norms of StableLM's heads, become one tensor.
        which = re.search(r"(?:experts|norms)\.(\d+)\.", name)
        whole = re.sub(r"experts\.\d+", "experts", re.sub(r"\.norms\.\d+", "", name))
        renamed = names.get_name(whole, try_suffixes=(".weight", ".bias"))
        assert renamed is not None, name
        made.setdefault(renamed, {})[int(which[1]) if which else -1] = array
    return {
        name: parts[-1].squeeze() if -1 in parts else np.stack([parts[i] for i in range(len(parts))])
        for name, parts in made.items()
    }


def write_gguf(path: Path, dialect: Dialect, tensors: dict[str, np.ndarray], kind: str = "F32") -> None:
    """A file by gguf's own writer."""
    name = gguf.MODEL_ARCH_NAMES[dialect.arch]
    writer = gguf.GGUFWriter(path, name)
    add = {int: writer.add_uint32, float: writer.add_float32, bool: writer.add_bool, str: writer.add_string}
    for key, value in (METADATA | dialect.metadata).items():
        add[type(value)](f"{name}.{key}", value)
    for name, array in tensors.items():
        stored = gguf.GGMLQuantizationType[kind if array.ndim > 1 else "F32"]
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
        return dialect, converted(dialect, load_file(tmp_path / "model.safetensors"))

    return save


@pytest.mark.parametrize("name", DIALECTS)
def test_both_dialects_give_equal_leaves(tmp_path, saved, name):
    dialect, tensors = saved(name)
    write_gguf(tmp_path / "model.gguf", dialect, tensors)
    one, other = open_checkpoint(tmp_path), open_checkpoint(tmp_path / "model.gguf")
    assert one.config == other.config
    want = dict(flatten(one.params))
    for leaf, got in flatten(other.params):
        assert np.array_equal(got, want[leaf]), leaf


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1"])
def test_experts_in_blocks_are_read_by_parts(tmp_path, saved, kind):
    dialect, tensors = saved("qwen3_moe")
    write_gguf(tmp_path / "model.gguf", dialect, tensors, kind)
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    stored = gguf.GGMLQuantizationType[kind]
    for leaf, name in (("gate", "blk.1.ffn_gate_exps.weight"), ("down", "blk.1.ffn_down_exps.weight")):
        whole = gguf.quants.dequantize(gguf.quants.quantize(tensors[name], stored), stored)
        for e in range(5):
            blocks = checkpoint.native(f"decoder.layers.1.mlp.experts.{e}.{leaf}")
            assert blocks is not None
            assert np.array_equal(dequantize(blocks), whole[e].T)
            assert np.array_equal(checkpoint.leaf(f"decoder.layers.1.mlp.experts.{e}.{leaf}"), whole[e].T)


@pytest.mark.parametrize(
    ("name", "metadata", "message"),
    [
        ("mixtral", {"expert_used_count": 6}, "chosen experts must be 1 to 5, got 6"),
        ("mixtral", {"expert_weights_norm": False}, "expert_weights_norm must be true, as llama.cpp runs it"),
        ("qwen2_moe", {"expert_weights_norm": True}, "expert_weights_norm must be false"),
        ("qwen2_moe", {"expert_group_count": 2}, "'expert_group_count' isn't known"),
        ("olmo2", {"attention.sliding_window": 7}, "'attention.sliding_window' isn't known"),
        ("starcoder2", {"attention.causal": False}, "'attention.causal' isn't known"),
        ("starcoder2", {"rope.dimension_count": 16}, "rope.dimension_count must be the head's size, 32"),
        ("gemma", {"attn_logit_softcapping": 50.0}, "'attn_logit_softcapping' isn't known"),
        ("command-r", {"attention.value_length": 16}, "attention.value_length must be the head's size, 32"),
        (
            "stablelm",
            {"embedding_length": 127},
            "embedding_length must be a multiple of attention.head_count",
        ),
    ],
)
def test_refused_metadata(tmp_path, saved, name, metadata, message):
    dialect, tensors = saved(name)
    write_gguf(tmp_path / "x.gguf", replace(dialect, metadata=dialect.metadata | metadata), tensors)
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(tmp_path / "x.gguf")


@pytest.mark.parametrize("experts", [4, 6])
def test_another_number_of_experts_than_the_tensors(tmp_path, saved, experts):
    dialect, tensors = saved("qwen3_moe")
    write_gguf(
        tmp_path / "x.gguf", replace(dialect, metadata=dialect.metadata | {"expert_count": experts}), tensors
    )
    with pytest.raises(CheckpointError, match=rf"ffn_gate_inp.weight' must have shape \[{experts}, 128\]"):
        open_checkpoint(tmp_path / "x.gguf")

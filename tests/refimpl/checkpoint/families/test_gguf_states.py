"""Layers with a state in GGUF, as llama.cpp's converter writes them: Mamba, Falcon Mamba, Mamba 2, Jamba,
Falcon-H1, Granite 4's H models and Nemotron-H."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from families import ROWS
from helpers.gguf_writer import renamed, write
from safetensors.numpy import load_file
from tfm.refimpl.checkpoint.open import materialize, open_checkpoint
from tfm.refimpl.config import to_json
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import CheckpointError, ConfigError
from tfm.refimpl.params.tree import flatten

ARCH = gguf.MODEL_ARCH
EPS = 2.0**-17  # GGUF holds it in float32
ATTENTION = {
    "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": EPS, "intermediate_size": 24,
    "max_position_embeddings": 64, "pad_token_id": None, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SIZES = {"vocab_size": 40, "hidden_size": 32}
ALONE = {**SIZES, "num_hidden_layers": 2, "conv_kernel": 3, "layer_norm_epsilon": EPS}
H1 = {
    **SIZES, **ATTENTION, "num_hidden_layers": 2, "head_dim": 16, "mamba_d_ssm": 36, "mamba_n_heads": 6,
    "mamba_d_head": 6, "mamba_d_state": 5, "mamba_d_conv": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "mlp_multipliers": [1.0, 1.0],
    "ssm_multipliers": [1.0] * 5,
}  # fmt: skip
NORMED = {"mamba_rms_norm": True, "mamba_norm_before_gate": False, "mamba_n_groups": 2}
FACTORS = {
    "mlp_multipliers": [0.5, 2.0], "ssm_multipliers": [0.5, 2.0, 4.0, 0.25, 8.0], "key_multiplier": 4.0,
    "attention_in_multiplier": 2.0, "attention_out_multiplier": 0.5, "ssm_in_multiplier": 0.25,
    "ssm_out_multiplier": 2.0, "lm_head_multiplier": 0.5, "embedding_multiplier": 4.0,
}  # fmt: skip
# Of stacks of such layers alone: no attention and no mlps.
WRITTEN = {
    "block_count": 2, "context_length": 2**20, "embedding_length": 32, "feed_forward_length": 0,
    "attention.head_count": 0, "attention.layer_norm_rms_epsilon": EPS, "vocab_size": 40,
    "ssm.conv_kernel": 3, "ssm.state_size": 5,
}  # fmt: skip
MIXED = {**WRITTEN, "context_length": 64, "feed_forward_length": 24, "attention.head_count": 4}
OF_H1 = {
    **MIXED, "attention.head_count_kv": 2, "attention.key_length": 16, "attention.value_length": 16,
    "rope.freq_base": 5e5, "ssm.inner_size": 36, "ssm.time_step_rank": 6,
}  # fmt: skip
GRANITE = {
    **SIZES, **ATTENTION, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
    "layer_types": ["linear_attention", "full_attention", "linear_attention"], "mamba_n_heads": 4,
    "mamba_expand": 2, "mamba_n_groups": 2, "mamba_d_state": 5, "mamba_d_conv": 3,
    "position_embedding_type": "nope", "embedding_multiplier": 12.0, "attention_multiplier": 2.0**-7,
    "residual_multiplier": 0.25, "logits_scaling": 8.0,
}  # fmt: skip
OF_GRANITE = {
    **MIXED, "block_count": 3, "attention.head_count": 2, "attention.head_count_kv": [0, 1, 0],
    "ssm.inner_size": 64, "ssm.time_step_rank": 4, "ssm.group_count": 2, "embedding_scale": 12.0,
    "attention.scale": 2.0**-7, "residual_scale": 0.25, "logit_scale": 8.0,
    "rope.scaling.finetuned": False, "rope.dimension_count": 16, "rope.freq_base": 1e4,
}  # fmt: skip
BAMBA = {
    **SIZES, **ATTENTION, "num_hidden_layers": 3, "num_attention_heads": 2, "num_key_value_heads": 1,
    "attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_n_groups": 2, "mamba_d_state": 5,
    "mamba_d_conv": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5e5, "partial_rotary_factor": 1.0},
}  # fmt: skip
OF_BAMBA = {
    **MIXED, "block_count": 3, "attention.head_count": 2, "attention.head_count_kv": [0, 1, 0],
    "ssm.inner_size": 64, "ssm.time_step_rank": 4, "ssm.group_count": 2, "rope.scaling.finetuned": True,
    "rope.dimension_count": 16, "rope.freq_base": 5e5,
}  # fmt: skip
NEMOTRON = {
    **SIZES, "hybrid_override_pattern": "M-M*-*M", "intermediate_size": 24, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "mamba_num_heads": 4, "mamba_head_dim": 6, "n_groups": 2,
    "ssm_state_size": 5, "conv_kernel": 3, "layer_norm_epsilon": EPS, "max_position_embeddings": 64,
    "mlp_bias": True,
}  # fmt: skip
OF_NEMOTRON = {
    **MIXED, "block_count": 7, "feed_forward_length": [0, 24, 0, 0, 24, 0, 0],
    "attention.head_count_kv": [0, 0, 0, 2, 0, 2, 0], "attention.key_length": 16,
    "attention.value_length": 16, "attention.layer_norm_epsilon": EPS, "ssm.inner_size": 24,
    "ssm.time_step_rank": 4, "ssm.group_count": 2, "rope.scaling.finetuned": False,
    "rope.dimension_count": 8,
}  # fmt: skip
# Layers as in Nemotron 3: experts in groups, a latent, no dense mlp. The last block predicts further tokens.
WITH_EXPERTS = {
    **NEMOTRON, "hybrid_override_pattern": "MEM*EM*E", "mlp_bias": False, "n_routed_experts": 6, "n_group": 3,
    "topk_group": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 20, "moe_latent_size": 12,
    "moe_shared_expert_intermediate_size": 28, "routed_scaling_factor": 2.5,
    "experts_implementation": "eager",
}  # fmt: skip
OF_EXPERTS = {
    **OF_NEMOTRON, "block_count": 9, "feed_forward_length": [0, 20, 0, 0, 20, 0, 0, 20, 20],
    "attention.head_count_kv": [0, 0, 0, 2, 0, 0, 2, 0, 2], "nextn_predict_layers": 1, "expert_count": 6,
    "expert_group_count": 3, "expert_group_used_count": 2, "expert_used_count": 2, "expert_shared_count": 1,
    "expert_feed_forward_length": 20, "expert_shared_feed_forward_length": 28, "expert_weights_norm": True,
    "expert_weights_scale": 2.5, "moe_latent_size": 12,
}  # fmt: skip
ROTATED_PAIRS = ("granitemoehybrid", "nemotron_h", "bamba")
# By name: the family, its keys, the architecture in GGUF, its metadata.
MODELS: dict[str, tuple[str, dict[str, Any], gguf.MODEL_ARCH, dict[str, Any]]] = {
    "mamba": (
        "mamba", {**ALONE, "state_size": 5, "time_step_rank": 3, "tie_word_embeddings": False}, ARCH.MAMBA,
        {**WRITTEN, "ssm.inner_size": 64, "ssm.time_step_rank": 3, "ssm.dt_b_c_rms": False},
    ),
    "falcon_mamba": (
        "falcon_mamba",
        {**ALONE, "state_size": 5, "time_step_rank": "auto", "mixer_rms_eps": EPS, "use_conv_bias": False},
        ARCH.MAMBA, {**WRITTEN, "ssm.inner_size": 64, "ssm.time_step_rank": 2, "ssm.dt_b_c_rms": True},
    ),
    "mamba2": (
        "mamba2", {**ALONE, "state_size": 5, "num_heads": 6, "head_dim": 16, "expand": 3, "n_groups": 2},
        ARCH.MAMBA2,
        {**WRITTEN, "ssm.inner_size": 96, "ssm.time_step_rank": 6, "ssm.group_count": 2},
    ),
    "jamba": (
        "jamba",
        {**SIZES, **ATTENTION, "num_hidden_layers": 3, "num_experts": 3, "attn_layer_period": 3,
         "attn_layer_offset": 1, "mamba_d_state": 5, "mamba_dt_rank": 7, "mamba_d_conv": 3},
        ARCH.JAMBA,
        {**MIXED, "block_count": 3, "attention.head_count_kv": [0, 2, 0], "ssm.inner_size": 64,
         "ssm.time_step_rank": 7, "expert_count": 3, "expert_used_count": 2},
    ),
    "falcon-h1": ("falcon_h1", {**H1, **NORMED}, ARCH.FALCON_H1, {**OF_H1, "ssm.group_count": 2}),
    "falcon-h1, without norms": (
        "falcon_h1", {**H1, "mamba_n_groups": 1}, ARCH.FALCON_H1, {**OF_H1, "ssm.group_count": 1},
    ),
    "falcon-h1, with multipliers": (
        "falcon_h1", {**H1, **NORMED, **FACTORS}, ARCH.FALCON_H1, {**OF_H1, "ssm.group_count": 2},
    ),
    "granitehybrid": (
        "granitemoehybrid",
        {**GRANITE, "num_local_experts": 3, "num_experts_per_tok": 2, "shared_intermediate_size": 40},
        ARCH.GRANITE_HYBRID,
        {**OF_GRANITE, "expert_count": 3, "expert_used_count": 2, "expert_shared_feed_forward_length": 40},
    ),
    "granitehybrid, without experts": (
        "granitemoehybrid",
        {**GRANITE, "num_local_experts": 0, "shared_intermediate_size": 24, "attention_bias": True},
        ARCH.GRANITE_HYBRID, {**OF_GRANITE, "expert_used_count": 2},
    ),
    "granitehybrid, of Bamba": ("bamba", BAMBA, ARCH.GRANITE_HYBRID, OF_BAMBA),
    "nemotron_h": ("nemotron_h", NEMOTRON, ARCH.NEMOTRON_H, OF_NEMOTRON),
    "nemotron_h, with experts": ("nemotron_h", WITH_EXPERTS, ARCH.NEMOTRON_H_MOE, OF_EXPERTS),
}  # fmt: skip


def original(family: str, keys: Mapping[str, Any]) -> torch.nn.Module:
    """transformers' model, all of its weights random."""
    model, noise = (
        ROWS[family].models[0](ROWS[family].config(**keys)).eval(),
        torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.randn(weight.shape, generator=noise) / 4 + ("norm" in name))
    return model


def multiplied(name: str, array: np.ndarray, keys: Mapping[str, Any]) -> np.ndarray:
    """A tensor of Falcon-H1's with the number that multiplies what its map gives or reads."""
    k: dict[str, Any] = {key: keys.get(key, 1.0) for key in FACTORS}
    of_gate, of_down = keys["mlp_multipliers"]
    factors = {
        "gate_proj": of_gate, "down_proj": of_down, "q_proj": k["attention_in_multiplier"],
        "k_proj": k["attention_in_multiplier"] * k["key_multiplier"],
        "v_proj": k["attention_in_multiplier"], "o_proj": k["attention_out_multiplier"],
        "out_proj": k["ssm_out_multiplier"], "lm_head": k["lm_head_multiplier"],
        "embed_tokens": k["embedding_multiplier"],
    }  # fmt: skip
    part = name.split(".")[-2]
    if part == "in_proj":
        states = keys["mamba_n_groups"] * 5
        rows = np.repeat(keys["ssm_multipliers"], [36, 36, states, states, 6])
        return (array * rows[:, None] * k["ssm_in_multiplier"]).astype(np.float32)
    return array * np.float32(factors.get(part, 1.0))


def granite_parts(tensor: str, array: np.ndarray, *, experts: bool) -> dict[str, np.ndarray]:
    """Granite's joint maps in two."""
    if match := re.search(r"(block_sparse_moe|shared_mlp)\.(input|output)_linear", tensor):
        whole = {"block_sparse_moe": "mlp.experts", "shared_mlp": "mlp.shared_expert" if experts else "mlp"}
        sides = {"down": array}
        if match[2] == "input":
            sides = dict(zip(("gate", "up"), np.split(array, 2, axis=-2), strict=True))
        place = tensor.replace(match[0], whole[match[1]] + ".{}_proj")
        return {place.format(side): half for side, half in sides.items()}
    return {tensor: array}


def converted(name: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the converter makes of a checkpoint's tensors, under its names."""
    family, keys, arch, _ = MODELS[name]
    made: dict[str, np.ndarray] = {}
    experts: dict[str, list[np.ndarray]] = {}
    for tensor, array in tensors.items():
        if family == "falcon_h1":
            array = multiplied(tensor, array, keys)
        if tensor.endswith("A_log"):
            array = -np.exp(array)
        if re.search(r"\.[qk]_proj", tensor) and family in ROTATED_PAIRS:
            # Pairs of a head as llama.cpp rotates them.
            array = array.reshape(-1, 2, 8, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)
        if family in ("mamba2", "falcon_h1", *ROTATED_PAIRS) and tensor.endswith(("A_log", ".D")):
            array = array[:, None]
        if tensor.endswith(("mixer.norm.weight", "mamba.norm.weight")):
            array = array.reshape(2, -1)
        array = array[:, 0] if tensor.endswith("conv1d.weight") else array
        tensor = tensor.replace(".dt_bias", ".dt_proj.bias").replace("correction_bias", "correction.bias")
        if family == "nemotron_h":
            tensor = tensor.replace("model.", "backbone.", 1)
        if ".experts." in tensor:
            whole = re.sub(r"(feed_forward|mixer)\.experts\.\d+", "mlp.experts", tensor)
            whole = whole.replace("backbone.", "model.")
            experts.setdefault(whole, []).append(array)
        elif family == "granitemoehybrid":
            made |= granite_parts(tensor, array, experts=bool(keys["num_local_experts"]))
        else:
            made[tensor] = array
    made = renamed(arch, made | {whole: np.stack(arrays) for whole, arrays in experts.items()})
    after = {"blk.8.nextn.eh_proj.weight": np.ones((2, 3), np.float32)}
    return made | (after if "with experts" in name else {})


def saved(path: Path, name: str) -> tuple[torch.nn.Module, dict[str, np.ndarray]]:
    """The model, saved as transformers does, and the tensors of its GGUF."""
    model = original(*MODELS[name][:2])
    model.save_pretrained(path)
    return model, converted(name, load_file(path / "model.safetensors"))


def gguf_file(path: Path, name: str, tensors: Mapping[str, np.ndarray], **metadata: Any) -> Path:
    arch, stated = MODELS[name][2:]
    return write(path / "x.gguf", gguf.MODEL_ARCH_NAMES[arch], stated | metadata, tensors)


@pytest.mark.parametrize("name", [name for name in MODELS if "multipliers" not in name])
def test_both_files_give_equal_leaves(tmp_path, name):
    """Also where llama.cpp's tools have dropped axes of one."""
    tensors = saved(tmp_path, name)[1]
    one = open_checkpoint(tmp_path)
    stated, want = to_json(one.config), dict(flatten(one.params))
    squeezed = {tensor: array.squeeze() for tensor, array in tensors.items()}
    for written in (tensors, squeezed):
        other = open_checkpoint(gguf_file(tmp_path, name, written))
        assert json.dumps(to_json(other.config)) == json.dumps(stated)
        for leaf, got in flatten(other.params):
            if leaf.endswith("a_log"):  # stored as its exponential
                np.testing.assert_allclose(got, want[leaf], rtol=0, atol=1e-6)
            else:
                assert np.array_equal(got, want[leaf]), leaf


def test_multipliers_are_in_the_weights(tmp_path):
    """Falcon-H1's, as powers of two: no rounding of theirs."""
    name, tokens = "falcon-h1, with multipliers", np.array([[13, 9, 30, 2, 2, 31, 7]])
    model, tensors = saved(tmp_path, name)
    checkpoint = open_checkpoint(gguf_file(tmp_path, name, tensors))
    engine = NumpyEngine(checkpoint.config, materialize(checkpoint.params))
    got, _ = engine.step(tokens, engine.start(1), at=np.arange(7)[None])
    with torch.no_grad():
        want = model(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6 * abs(want).max())


@pytest.mark.parametrize(
    ("name", "metadata", "message"),
    [
        ("mamba2", {"ssm.time_step_rank": 7}, r"ssm\.inner_size.*ssm\.time_step_rank.*7"),
        ("mamba2", {"feed_forward_length": 8}, "feed_forward_length.*0.*8"),
        ("mamba", {"attention.head_count": 2}, r"attention\.head_count.*0.*2"),
        ("mamba", {"ssm.group_count": 1}, r"'ssm\.group_count'"),
        ("jamba", {"attention.head_count_kv": [0, 2, 1]}, "0.*number"),
        ("jamba", {"attention.head_count_kv": [0, 2]}, "number.*3"),
        ("jamba", {"expert_weights_norm": True}, r"expert_weights_norm.*false.*llama\.cpp"),
        ("jamba", {"rope.freq_base": 1e4}, r"'rope\.freq_base'"),
        ("nemotron_h", {"feed_forward_length": [24, 0, 0, 0, 24, 0, 0]}, "mixture.*neither"),
        ("nemotron_h", {"feed_forward_length": [0, 24, 0, 0, 12, 0, 0]}, "0.*number"),
        ("nemotron_h", {"rope.scaling.finetuned": True}, r"rope\.scaling\.finetuned.*false.*True"),
        ("nemotron_h, with experts", {"expert_gating_func": 1}, "expert_gating_func.*2.*1"),
        ("granitehybrid", {"ssm.time_step_rank": 7}, r"ssm\.time_step_rank.*64.*7"),
        ("granitehybrid, of Bamba", {"rope.dimension_count": 8}, "size.*16.*8"),
    ],
)
def test_refused_metadata(tmp_path, name, metadata, message):
    with pytest.raises(ConfigError, match=message):
        open_checkpoint(gguf_file(tmp_path, name, saved(tmp_path, name)[1], **metadata))


def test_a_bias_that_llama_cpp_does_not_have(tmp_path):
    """Of a map of Mamba's: nobody would read it."""
    tensors = saved(tmp_path, "mamba")[1] | {"blk.0.ssm_in.bias": np.ones(128, np.float32)}
    with pytest.raises(CheckpointError, match=r"blk\.0\.ssm_in\.bias"):
        open_checkpoint(gguf_file(tmp_path, "mamba", tensors))

"""Qwen3-Next (Qwen 2025): gated delta networks, and in every fourth layer attention with a gate.

Its attention turns a quarter of each head; experts are those of Qwen 2 MoE.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ..config import Attention, Decoder, FullAttention, GatedDelta, HeadNorm, Layer, MoE
from ..config_readers.decoder import decoder, map_layers
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count
from ..config_readers.rope import rope
from ..weights.weight_map import WeightMap, weight_map
from . import Task
from .llama import QK_NORM
from .qwen2_moe import WEIGHTS as QWEN2_MOE
from .qwen2_moe import with_experts

MODEL_TYPES = ("qwen3_next",)
# Those that read whole texts would be encoders, which have no recurrences here.
ARCHITECTURES: dict[str, Task] = {"Qwen3NextForCausalLM": "lm"}
PREFIX = "model."
GGUF = None
KINDS = ("linear_attention", "full_attention")


def config(keys: Keys, task: Task) -> Decoder:
    keys.harmless(use_sliding_window=(False,))
    base = gated_decoder(keys, kv_heads=2)
    attention = base.stack.attentions[0]
    mixture = MoE(
        keys.get("num_experts", int, 512),
        keys.size("num_experts_per_tok", 10),
        keys.size("moe_intermediate_size", 512),
        "silu",
        renormalize=keys.get("norm_topk_prob", bool, True),
        shared=keys.size("shared_expert_intermediate_size", 512),
        shared_gate=True,
        pre=attention.pre,
    )
    masks: list[Any] = [FullAttention()] * layer_count(keys)
    return with_delta(with_experts(base, keys, attention, masks, mixture), keys)


def gated_decoder(keys: Keys, *, kv_heads: int) -> Decoder:
    """The decoder with attention in each layer: with a gate, norms of heads, and a part of each turned."""
    keys.choice("hidden_act", {"silu": "silu"}, "silu")  # the convolutions' kernels know no other
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", kv_heads),
        context=32_768,
        attention_bias=keys.get("attention_bias", bool, False),
        mlp_bias=False,
        head=256,
        positions=partial(rope, partial=0.25),
    )

    def gated(_: int, layer: Layer) -> Layer:
        a = layer.attention
        assert isinstance(a, Attention)
        assert a.pre is not None
        return replace(layer, attention=replace(a, output_gate=True, qk_norm=HeadNorm(a.pre)))

    return map_layers(base, gated)


def with_delta(config: Decoder, keys: Keys) -> Decoder:
    """The decoder with gated delta networks in the layers so marked, by default three of four."""
    layers, types = layer_count(keys), keys.get("layer_types", list, None)
    every = keys.size("full_attention_interval", 4)
    if types is None:
        types = [KINDS[(i + 1) % every == 0] for i in range(layers)]
    if len(types) != layers or any(kind not in KINDS for kind in types):
        raise keys.fail("layer_types", f"a list of {layers}, each one of {', '.join(KINDS)}")
    mixer = GatedDelta(
        heads=keys.size("linear_num_value_heads", 32),
        key_heads=keys.size("linear_num_key_heads", 16),
        key_size=keys.size("linear_key_head_dim", 128),
        value_size=keys.size("linear_value_head_dim", 128),
        length=keys.size("linear_conv_kernel_dim", 4),
        eps=keys.positive("rms_norm_eps", 1e-6),
    )

    def mixed(i: int, layer: Layer) -> Layer:
        if types[i] == KINDS[1]:
            return layer
        return replace(layer, attention=replace(mixer, pre=layer.attention.pre))

    return map_layers(config, mixed)


def gated_weights(base: WeightMap) -> WeightMap:
    """The map of a decoder, whose queries come with a gate and whose norms are stored less one, but for that
    of a gated delta network."""
    gates = weight_map("""
        decoder.layers.{i}.attn.wq, wg <- layers.{i}.self_attn.q_proj.weight : transpose gate_by_head
        decoder.layers.{i}.attn.bq, bg <- layers.{i}.self_attn.q_proj.bias : gate_by_head
    """)
    queries = ("decoder.layers.{i}.attn.wq", "decoder.layers.{i}.attn.bq")
    norms = (base + QK_NORM).then("plus_one", lambda tensor: tensor.endswith("norm.weight"))
    return norms.without(*queries) + gates + DELTA


# Layers that predict further tokens are left out.
DELTA = weight_map("""
    decoder.layers.{i}.attn.conv <- layers.{i}.linear_attn.conv1d.weight : taps
    decoder.layers.{i}.attn.a_log <- layers.{i}.linear_attn.A_log
    decoder.layers.{i}.attn.dt_bias <- layers.{i}.linear_attn.dt_bias
    decoder.layers.{i}.attn.norm <- layers.{i}.linear_attn.norm.weight
    decoder.layers.{i}.attn.wo <- layers.{i}.linear_attn.out_proj.weight : transpose
    left out <- mtp.*
""")
WEIGHTS = gated_weights(QWEN2_MOE) + weight_map("""
    decoder.layers.{i}.attn.wi, wz <- layers.{i}.linear_attn.in_proj_qkvz.weight : transpose by_key_head
    decoder.layers.{i}.attn.wb, wa <- layers.{i}.linear_attn.in_proj_ba.weight : transpose by_key_head
""")

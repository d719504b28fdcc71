"""Qwen3-Next (Qwen 2025): gated delta networks, and attention with a gate in every fourth layer.

The attention of Qwen3-Next rotates a quarter of each head. The experts have the same form as in Qwen 2
MoE.
"""

from dataclasses import replace
from functools import partial
from typing import Any

from ...config import Attention, Decoder, FullAttention, HeadNorm, Layer, MoE
from ...ops.gated_delta import GatedDelta
from ..config_readers.decoder import decoder, map_layers, with_mtp
from ..config_readers.gguf_keys import (
    PARTIAL,
    RECURRENT,
    Row,
    always,
    either,
    experts,
    experts_width,
    fixed,
    layers_without,
    quotient,
    recurrent_layers,
    trunk_layers,
)
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count, stated_types
from ..config_readers.rope import rope
from ..weights.weight_map import WeightMap, weight_map
from . import Gguf, Task
from .llama import QK_NORM
from .qwen2_moe import WEIGHTS as QWEN2_MOE
from .qwen2_moe import with_experts

MODEL_TYPES = ("qwen3_next",)
ARCHITECTURES: dict[str, Task] = {"Qwen3NextForCausalLM": "lm"}
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
        **attention.norms_around,
    )
    masks: list[Any] = [FullAttention()] * layer_count(keys)
    config = with_delta(with_experts(base, keys, attention, masks, mixture), keys)
    # No key states the module, so its weights do.
    return with_mtp(config, int("mtp.fc.weight" in (keys.tensors or ())), attending_layer(config))


def attending_layer(config: Decoder) -> Layer | None:
    """Return a layer with attention, which the module that predicts further tokens also uses.

    Returns None if no layer has attention, or if the layers have different kinds of mlps.
    """
    mlps = {layer.mlp for layer in config.layers}
    attending = (layer for layer in config.layers if isinstance(layer.attention, Attention))
    return next(attending, None) if len(mlps) == 1 else None


def gated_decoder(keys: Keys, *, kv_heads: int, rotated: float = 0.25) -> Decoder:
    """Return the decoder with gated attention in each layer, before gated delta networks replace some of it.

    Queries and keys have norms, and a part of each head is rotated, by default the share `rotated`."""
    keys.choice("hidden_act", {"silu": "silu"}, "silu")  # the convolutions' kernels know no other
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", kv_heads),
        context=32_768,
        head=256,
        positions=partial(rope, partial=rotated),
    )

    return map_layers(base, gated)


def gated(_: int, layer: Layer) -> Layer:
    """Return the layer with an output gate for its attention and with norms of queries and keys."""
    a = layer.attention
    assert isinstance(a, Attention)
    assert a.pre is not None
    return replace(layer, attention=replace(a, output_gate=True, qk_norm=HeadNorm(a.pre)))


def with_delta(config: Decoder, keys: Keys) -> Decoder:
    """Return the decoder with gated delta networks in some layers, by default in three of four."""
    return mixed(config, delta(keys), attending_layers(keys, every(keys, layer_count(keys))))


def delta(keys: Keys) -> GatedDelta:
    """Return the gated delta network that the keys state."""
    return GatedDelta(
        heads=keys.size("linear_num_value_heads", 32),
        key_heads=keys.size("linear_num_key_heads", 16),
        key_size=keys.size("linear_key_head_dim", 128),
        value_size=keys.size("linear_value_head_dim", 128),
        length=keys.size("linear_conv_kernel_dim", 4),
        eps=keys.positive("rms_norm_eps", 1e-6),
    )


def every(keys: Keys, layers: int) -> list[bool]:
    """Return which layers have attention: one of every n layers."""
    interval = keys.size("full_attention_interval", 4)
    return [(i + 1) % interval == 0 for i in range(layers)]


def mixed(config: Decoder, mixer: GatedDelta, attends: list[bool]) -> Decoder:
    """Return the decoder with `mixer` in each layer that doesn't have attention."""

    def change(i: int, layer: Layer) -> Layer:
        if attends[i]:
            return layer
        return replace(layer, attention=replace(mixer, **layer.attention.norms_around))

    return map_layers(config, change)


def attending_layers(keys: Keys, default: list[bool]) -> list[bool]:
    """Return which layers have attention. The other layers have a gated delta network."""
    types = stated_types(keys, KINDS)
    return default if types is None else [kind == "full_attention" for kind in types]


def gated_weights(base: WeightMap) -> WeightMap:
    """Return the weight map of a decoder that stores queries together with a gate.

    Norm weights are stored minus one, except in a gated delta network."""
    gates = weight_map("""
        decoder.layers.{i}.attn.wq, wg <- layers.{i}.self_attn.q_proj.weight : transpose gate_by_head
        decoder.layers.{i}.attn.bq, bg <- layers.{i}.self_attn.q_proj.bias : gate_by_head
    """)
    queries = ("decoder.layers.{i}.attn.wq", "decoder.layers.{i}.attn.bq")
    norms = (base + QK_NORM).then("plus_one", lambda tensor: tensor.endswith("norm.weight"))
    trunk = norms.without(*queries) + gates
    # The module's layer always has attention.
    return trunk.of_mtp("mtp.layers.0.") + MTP_INPUT + trunk + DELTA + FURTHER


DELTA = weight_map("""
    decoder.layers.{i}.attn.conv <- layers.{i}.linear_attn.conv1d.weight : taps
    decoder.layers.{i}.attn.{a_log,dt_bias} <- layers.{i}.linear_attn.{A_log,dt_bias}
    decoder.layers.{i}.attn.norm <- layers.{i}.linear_attn.norm.weight
    decoder.layers.{i}.attn.wo <- layers.{i}.linear_attn.out_proj.weight : transpose
""")
MTP_INPUT = weight_map("""
    with mtp:
    mtp.{token,hidden}_norm <- mtp.pre_fc_norm_{embedding,hidden}.weight : plus_one
    mtp.project <- mtp.fc.weight : transpose
    mtp.norm.weight <- mtp.norm.weight : plus_one
""")
FURTHER = weight_map("left out <- mtp.*")  # the module, where it isn't asked for
WEIGHTS = gated_weights(QWEN2_MOE) + weight_map("""
    decoder.layers.{i}.attn.wi, wz <- layers.{i}.linear_attn.in_proj_qkvz.weight : transpose by_key_head
    decoder.layers.{i}.attn.wb, wa <- layers.{i}.linear_attn.in_proj_ba.weight : transpose by_key_head
""")


GGUF_GATED_WEIGHTS = UNPERMUTED_QK_WEIGHTS.renamed({"ffn_norm": "post_attention_norm"}).without(
    "decoder.layers.{i}.attn.wq", "decoder.layers.{i}.attn.bq"
) + weight_map("""
        decoder.layers.{i}.attn.wq, wg <- blk.{i}.attn_q.weight : transpose gate_by_head
        decoder.layers.{i}.attn.bq, bg <- blk.{i}.attn_q.bias : gate_by_head
    decoder.layers.{i}.attn.norm <- blk.{i}.ssm_norm.weight
    left out <- blk.{n}.*
""")
GGUF_DELTA = weight_map("""
    decoder.layers.{i}.attn.{wi,wz,conv} <- blk.{i}.{attn_qkv,attn_gate,ssm_conv1d}.weight : transpose
    decoder.layers.{i}.attn.a_log <- blk.{i}.ssm_a : negated_exp
    decoder.layers.{i}.attn.dt_bias <- blk.{i}.ssm_dt.bias
    decoder.layers.{i}.attn.wo <- blk.{i}.ssm_out.weight : transpose
""")
# Older files have queries, keys, values and gates as the checkpoint does.
BY_KEY_HEAD = weight_map("""
    decoder.layers.{i}.attn.wi, wz <- blk.{i}.ssm_in.weight : transpose by_key_head
    decoder.layers.{i}.attn.wb, wa <- blk.{i}.ssm_ba.weight : transpose by_key_head
""")
GATED_KEYS = {
    **PARTIAL,
    "num_hidden_layers": Row(trunk_layers, "block_count"),
    "linear_num_value_heads": "ssm.time_step_rank",
    "linear_num_key_heads": "ssm.group_count",
    "linear_key_head_dim": "ssm.state_size",
    "linear_value_head_dim": quotient("ssm.inner_size", "ssm.time_step_rank"),
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "layer_types": recurrent_layers(4),
}
SHARED = "expert_shared_feed_forward_length"
MIXED_KEYS = {
    **GATED_KEYS,
    **experts(),
    "intermediate_size": either("feed_forward_length", SHARED),
    "moe_intermediate_size": experts_width(lambda width, top: width // top, "feed_forward_length", SHARED),
    "shared_expert_intermediate_size": either(SHARED, "feed_forward_length"),
    "norm_topk_prob": always("expert_weights_norm", True),
    "mlp_only_layers": layers_without("ffn_gate_inp.weight"),
}
KEYS = {**MIXED_KEYS, "model_type": fixed("qwen3_next")}
GGUF = Gguf("qwen3next", KEYS, GGUF_GATED_WEIGHTS + GGUF_DELTA + BY_KEY_HEAD + EXPERTS, arrays=(RECURRENT,))

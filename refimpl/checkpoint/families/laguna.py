"""Laguna (Poolside 2026): sliding windows, and a softplus gate on the heads' output.

Rotary positions depend on the layer's type, and the number of heads on the layer. Sigmoids and biases choose
experts, which are beside a shared expert."""

from dataclasses import replace

from ...config import Attention, Decoder, Gated, MoE
from ..config_readers.decoder import decoder, map_attention, sigmoid_experts, with_experts
from ..config_readers.gguf_keys import (
    DECODER,
    SIGMOID,
    Row,
    always,
    experts,
    fixed,
    mlp_types,
    optional,
    scores,
    sliding_layers,
    thetas,
    without,
)
from ..config_readers.gguf_metadata import gguf_rows, own_head_size
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import (
    layer_count,
    layer_masks,
    layer_sizes,
    layer_types,
    read_window,
    stated_sparse,
)
from ..config_readers.rope import exact_context, nested_ropes
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import QK_NORM
from .qwen2_moe import WEIGHTS as QWEN2
from .qwen3 import with_qk_norm

MODEL_TYPES = ("laguna",)
ARCHITECTURES: dict[str, Task] = decoders("Laguna", tasks=())
ROPES = {
    "full_attention": {"rope_theta": 500_000.0, "partial_rotary_factor": 0.5},
    "sliding_attention": {"rope_theta": 10_000.0},
}


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("output_router_logits", "router_aux_loss_coef")  # of training
    keys.unused("partial_rotary_factor")  # each type of layer has its own
    # Other values would be other mathematics, which published models don't have.
    keys.harmless(
        moe_apply_router_weight_on_input=(False,),
        moe_router_logit_softcapping=(0.0,),
        norm_topk_prob=(True,),
        qkv_bias=(False,),
        use_bidirectional_attention=(False,),
    )
    kv_heads = keys.size("num_key_value_heads", 8)
    base = decoder(keys, kv_heads=kv_heads, context=131_072, head=128, positions=lambda *_, **__: None)
    types, count = layer_types(keys, lambda _: False), len(base.layers)
    masks = layer_masks(keys, types, read_window(keys, 512, everywhere=False))
    sizes = dict.fromkeys(types, base.stack.attentions[0].head_size)
    ropes = nested_ropes(keys, sizes, base.context, ROPES, partial=1.0)
    keys.harmless(gating=(True, False, "per-head", "per-element"))
    each = keys.values.get("gating", True) in (True, "per-head")
    if not each and keys.get("attention_bias", bool, False):
        raise keys.fail("attention_bias", "false if a gate has a value for each element of a head")
    heads = [a.heads for a in base.stack.attentions]
    if keys.values.get("num_attention_heads_per_layer") is not None:
        heads = layer_sizes(keys, "num_attention_heads_per_layer", count)
    keys.unused("num_attention_heads_per_layer")

    def change(i: int, attention: Attention) -> Attention:
        return replace(
            attention,
            heads=heads[i],
            position=ropes[types[i]],
            mask=masks[i],
            head_gate=each,
            output_gate=not each,
            softplus_gate=True,
        )

    experts, top = keys.size("num_experts", 256), keys.size("num_experts_per_tok", 8)
    width, shared = keys.size("moe_intermediate_size", 512), keys.size("shared_expert_intermediate_size", 512)
    scale = keys.positive("moe_routed_scaling_factor", 1.0)
    stated = stated_sparse(keys)

    def mixture(mlp: Gated) -> MoE:
        return replace(sigmoid_experts(mlp, experts, top, width, scale=scale), shared=shared)

    mixed = with_experts(map_attention(with_qk_norm(base), change), mixture, 1 if stated is None else stated)
    return replace(mixed, context=exact_context(base.context, *ropes.values()))


WEIGHTS = (
    QWEN2
    + QWEN2.renamed({"mlp.shared_expert.": "mlp.shared_experts."})
    + QK_NORM
    + weight_map("""
    decoder.layers.{i}.attn.{w_head_gate,wg} <- layers.{i}.self_attn.{g_proj,g_proj}.weight : transpose
    decoder.layers.{i}.mlp.bias <- layers.{i}.mlp.(experts|gate).e_score_correction_bias
""")
)


def _gating(keys: Keys, source: TensorSource) -> str:
    """Return whether the gate has a value for each head or for each element. The number of its rows tells
    this.
    """
    first = layer_sizes(keys, HEADS, layer_count(keys, "block_count"))[0]
    return "per-head" if gguf_rows(keys, source, "blk.0.attn_gate.weight") == first else "per-element"


HEADS = "attention.head_count"
KEYS = {
    **without(DECODER, "rope_theta", "rope_scaling", "partial_rotary_factor"),
    **experts(),
    "model_type": fixed("laguna"),
    "num_attention_heads": Row(
        lambda keys, _: layer_sizes(keys, HEADS, layer_count(keys, "block_count"))[0], HEADS
    ),
    "num_attention_heads_per_layer": HEADS,
    "num_key_value_heads": "attention.head_count_kv",
    "gating": Row(_gating),
    "rope_parameters": thetas(own_head_size, partial=True),
    "layer_types": sliding_layers(4, windowless=True, first=True),
    "sliding_window": optional("attention.sliding_window", None),
    "mlp_layer_types": mlp_types(),
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "expert_shared_count": always("expert_shared_count", 1, told=False),
    "moe_routed_scaling_factor": optional("expert_weights_scale", 1.0),
    "norm_topk_prob": optional("expert_weights_norm", False),
    "expert_gating_func": scores(SIGMOID, default=SIGMOID),
}
GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS
    + EXPERTS
    + weight_map("""
    decoder.layers.{i}.attn.{w_head_gate,wg} <- blk.{i}.{attn_gate,attn_gate}.weight : transpose
""")
)
GGUF = Gguf("laguna", KEYS, GGUF_WEIGHTS, by_layer=(HEADS, "attention.sliding_window_pattern"))

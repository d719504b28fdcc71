"""Qwen1.5-MoE and Qwen 2 57B-A14B (Yang et al. 2024): layers with experts among layers without experts, some
with a sliding window.

Each layer with experts also has a shared expert, with a separate gate.
"""

from dataclasses import replace

from ...config import Attention, Decoder, FullAttention, Gated, Layer, MoE, Window
from ..config_readers.decoder import decoder, map_layers
from ..config_readers.gguf_keys import DECODER, always, either, experts, experts_width, fixed, layers_without
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("qwen2_moe",)
ARCHITECTURES: dict[str, Task] = decoders("Qwen2Moe")


def config(keys: Keys, task: Task) -> Decoder:
    base = decoder(
        keys, kv_heads=keys.size("num_key_value_heads", 16, null=True), context=32_768, attention_bias=False
    )
    attention, dense = base.stack.attentions[0], base.layers[0].mlp
    assert isinstance(dense, Gated)
    mixture = MoE(
        keys.get("num_experts", int, 60),
        keys.size("num_experts_per_tok", 4),
        keys.size("moe_intermediate_size", 1408),
        dense.activation,
        renormalize=keys.get("norm_topk_prob", bool, False),
        shared=keys.size("shared_expert_intermediate_size", 5632),
        shared_gate=True,
        **dense.norms_around,
    )
    qkv_bias = keys.shows("attn_q.bias", stated=keys.get("qkv_bias", bool, True))
    return with_experts(base, keys, replace(attention, qkv_bias=qkv_bias), _patterns(keys), mixture)


def _patterns(keys: Keys) -> list[FullAttention | Window]:
    """Return the mask of each layer. By default every second layer below max_window_layers has a window."""
    on, below = keys.get("use_sliding_window", bool, False), keys.get("max_window_layers", int, 28)
    types = layer_types(keys, lambda i: on and i % 2 == 0 and i < below)
    return layer_masks(keys, types, read_window(keys, 4096, everywhere=False), used=on)


def with_experts(
    base: Decoder, keys: Keys, attention: Attention, masks: list[FullAttention | Window], mixture: MoE
) -> Decoder:
    """Return the decoder with experts in every decoder_sparse_step-th layer, except the layers in
    mlp_only_layers.

    If the config states no experts, the decoder has none."""
    # Of training.
    keys.get("output_router_logits", bool, False)
    keys.get("router_aux_loss_coef", float, None)
    step, without = keys.size("decoder_sparse_step", 1), keys.get("mlp_only_layers", list, None) or []
    if not all(type(i) is int and i >= 0 for i in without):
        raise keys.fail("mlp_only_layers", "a list of layers, counted from 0")

    def layer(i: int, dense: Layer) -> Layer:
        sparse = mixture.experts > 0 and (i + 1) % step == 0 and i not in without
        mlp = mixture if sparse else dense.mlp
        return Layer(replace(attention, mask=masks[i]), mlp)

    return map_layers(base, layer)


WEIGHTS = LLAMA + weight_map("""
    decoder.layers.{i}.mlp.router <- layers.{i}.mlp.gate.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.gate <- layers.{i}.mlp.experts.{e}.gate_proj.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.up <- layers.{i}.mlp.experts.{e}.up_proj.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{i}.mlp.experts.{e}.down_proj.weight : transpose
    decoder.layers.{i}.mlp.shared.gate <- layers.{i}.mlp.shared_expert.gate_proj.weight : transpose
    decoder.layers.{i}.mlp.shared.up <- layers.{i}.mlp.shared_expert.up_proj.weight : transpose
    decoder.layers.{i}.mlp.shared.down <- layers.{i}.mlp.shared_expert.down_proj.weight : transpose
    decoder.layers.{i}.mlp.shared_gate <- layers.{i}.mlp.shared_expert_gate.weight : transpose
""")


KEYS = {
    **DECODER,
    **experts(),
    "model_type": fixed("qwen2_moe"),
    "moe_intermediate_size": experts_width(lambda width, top: width // top),
    "shared_expert_intermediate_size": either("expert_shared_feed_forward_length", "feed_forward_length"),
    "norm_topk_prob": always("expert_weights_norm", False),
    "mlp_only_layers": layers_without("ffn_gate_inp.weight"),
}
GGUF = Gguf("qwen2moe", KEYS, UNPERMUTED_QK_WEIGHTS + EXPERTS)

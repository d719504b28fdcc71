"""Mellum 2 (JetBrains 2026): Qwen 3's mixture of experts, with a rotary theta for each type of layer.

Lists in config.json name the layers with a sliding window and the layers without experts. tfm leaves out the
module that predicts further tokens.
"""

from dataclasses import replace

from ...config import Decoder, Gated, MoE
from ..config_readers.decoder import decoder, map_attention, with_experts, with_masks
from ..config_readers.gguf_keys import (
    DECODER,
    always,
    experts,
    fixed,
    optional,
    sliding_layers,
    thetas,
    without,
)
from ..config_readers.gguf_metadata import own_head_size
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window, stated_sparse
from ..config_readers.rope import exact_context, nested_ropes
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .qwen3 import with_qk_norm
from .qwen3_moe import WEIGHTS as QWEN3_MOE

MODEL_TYPES = ("mellum",)
ARCHITECTURES: dict[str, Task] = decoders("Mellum", tasks=())
ROPES = {"full_attention": {"rope_theta": 500_000.0}, "sliding_attention": {"rope_theta": 10_000.0}}
WEIGHTS = QWEN3_MOE + weight_map("left out <- mtp.*")


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("output_router_logits", "router_aux_loss_coef")  # of training
    keys.unused("num_mtp_layers", "num_nextn_predict_layers", "mtp_layer_types", "mtp_mlp_layer_types")
    base = with_qk_norm(
        decoder(
            keys,
            kv_heads=keys.size("num_key_value_heads", 4),
            context=131_072,
            head=128,
            positions=lambda *_, **__: None,
        )
    )
    types = layer_types(keys, lambda _: False)
    base = with_masks(base, layer_masks(keys, types, read_window(keys, 1024, everywhere=False)))
    sizes = dict.fromkeys(types, base.stack.attentions[0].head_size)
    ropes = nested_ropes(keys, sizes, base.context, ROPES)
    base = map_attention(base, lambda i, attention: replace(attention, position=ropes[types[i]]))
    experts = keys.size(keys.spelled("num_experts", "num_local_experts"), 64)
    top, width = keys.size("num_experts_per_tok", 8), keys.size("moe_intermediate_size", 896)
    renormalize = keys.get("norm_topk_prob", bool, True)
    stated = stated_sparse(keys)

    def mixture(mlp: Gated) -> MoE:
        return MoE(experts, top, width, mlp.activation, renormalize=renormalize, **mlp.norms_around)

    mixed = with_experts(base, mixture, 0 if stated is None else stated)
    return replace(mixed, context=exact_context(base.context, *(ropes[kind] for kind in types)))


KEYS = {
    **without(DECODER, "rope_theta", "rope_scaling", "partial_rotary_factor"),
    **experts(),
    "model_type": fixed("mellum"),
    "rope_parameters": thetas(own_head_size),
    "layer_types": sliding_layers(4, windowless=True),
    "sliding_window": optional("attention.sliding_window", None),
    "moe_intermediate_size": "expert_feed_forward_length",
    "norm_topk_prob": always("expert_weights_norm", True),
}
GGUF = Gguf("mellum", KEYS, UNPERMUTED_QK_WEIGHTS + EXPERTS, by_layer=("attention.sliding_window_pattern",))

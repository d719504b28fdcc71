"""Hunyuan 3, published as Hy3 (Tencent 2026): Qwen 3's attention. Some or all layers have experts beside a
shared expert.

Sigmoids and biases choose the experts. tfm leaves out the layer after the last, which predicts further
tokens, as transformers' class does."""

from functools import partial

from ...config import Decoder
from ..config_readers.decoder import decoder, sigmoid_experts, with_experts
from ..config_readers.gguf_keys import (
    DECODER,
    SIGMOID,
    Row,
    experts,
    fixed,
    mlp_types,
    optional,
    quotient,
    scores,
    trunk_layers,
)
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import sparse_layers
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .glm4_moe import WITHOUT_MTP
from .qwen3 import with_qk_norm

MODEL_TYPES = ("hy_v3",)
ARCHITECTURES: dict[str, Task] = decoders("HYV3", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    # What the publisher's code can do otherwise, of training, and in which type of floats it computes.
    keys.harmless(qk_norm=(True,), route_norm=(True,), moe_router_use_sigmoid=(True,), mlp_bias=(False,))
    keys.harmless(moe_router_enable_expert_bias=(True,), use_grouped_mm=(bool,), output_router_logits=(bool,))
    keys.harmless(enable_attention_fp32_softmax=(bool,), enable_lm_head_fp32=(bool,))
    keys.harmless(
        enable_moe_fp32_combine=(bool,), num_nextn_predict_layers=(int,), first_k_dense_replace=(1,)
    )
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8),
        context=131_072,
        theta=11_158_840.0,
        eps=1e-5,
        head=128,
    )
    width = keys.size("moe_intermediate_size", 1536)
    keys.restated("expert_hidden_dim", width, f"moe_intermediate_size ({width})")
    mixture = partial(
        sigmoid_experts,
        experts=keys.size(keys.spelled("num_experts", "num_local_experts"), 192),
        top=keys.size("num_experts_per_tok", 8),
        width=width,
        scale=keys.positive("router_scaling_factor", 2.826),
        shared=keys.size("num_shared_experts", 1),
    )
    return with_experts(with_qk_norm(base), mixture, sparse_layers(keys, 1))


WEIGHTS = WITHOUT_MTP.renamed(
    {
        "mlp.gate.weight": "mlp.router.gate.weight",
        "mlp.shared_experts.": "mlp.shared_mlp.",
        "mlp.gate.e_score_correction_bias": "mlp.expert_bias",
    }
)
KEYS = {
    **DECODER,
    **experts(),
    "model_type": fixed("hy_v3"),
    "num_hidden_layers": Row(trunk_layers, "block_count"),
    "mlp_layer_types": mlp_types(),
    "moe_intermediate_size": "expert_feed_forward_length",
    "num_shared_experts": quotient("expert_shared_feed_forward_length", "expert_feed_forward_length"),
    "router_scaling_factor": optional("expert_weights_scale", 1.0),
    "route_norm": optional("expert_weights_norm", False),
    "expert_gating_func": scores(SIGMOID, default=SIGMOID),
}
GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS
    + EXPERTS
    + weight_map("""
    decoder.layers.{i}.mlp.bias <- blk.{i}.exp_probs_b
    left out <- blk.{n}.*
""")
)
GGUF = Gguf("hy_v3", KEYS, GGUF_WEIGHTS)

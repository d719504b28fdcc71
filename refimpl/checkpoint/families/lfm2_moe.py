"""LFM2 with experts (LFM2-8B-A1B, Liquid AI 2025) in all layers except the first ones.

Sigmoids and biases choose the experts."""

from dataclasses import replace
from functools import partial

from ...config import Decoder, Gated, MoE
from ..config_readers.decoder import sigmoid_experts, with_experts
from ..config_readers.gguf_keys import SIGMOID, experts, fixed, optional, scores, without
from ..config_readers.gguf_weights import EXPERTS
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .lfm2 import GGUF as LFM2_GGUF
from .lfm2 import KEYS as LFM2_KEYS
from .lfm2 import WEIGHTS as LFM2
from .lfm2 import hybrid

MODEL_TYPES = ("lfm2_moe",)
# Those that read whole texts would be encoders, which have no convolutions here.
ARCHITECTURES: dict[str, Task] = decoders("Lfm2Moe", tasks=())
SUM_EPS = 1e-6


def config(keys: Keys, task: Task) -> Decoder:
    keys.get("output_router_logits", bool, False)  # of training
    biased = keys.get("use_expert_bias", bool, True)
    experts = partial(
        sigmoid_experts,
        experts=keys.size("num_experts", 32),
        top=keys.size("num_experts_per_tok", 4),
        width=keys.size("moe_intermediate_size", 1792),
        renormalize=keys.get("norm_topk_prob", bool, True),
        scale=keys.positive("routed_scaling_factor", 1.0),
    )

    def mixture(mlp: Gated) -> MoE:
        return replace(experts(mlp), choice_bias=biased, sum_eps=SUM_EPS)

    return with_experts(hybrid(keys), mixture, keys.get("num_dense_layers", int, 2))


WEIGHTS = LFM2 + weight_map("""
    decoder.layers.{i}.mlp.router <- layers.{i}.feed_forward.gate.weight : transpose
    decoder.layers.{i}.mlp.bias <- layers.{i}.feed_forward.expert_bias
    decoder.layers.{i}.mlp.experts.{e}.gate <- layers.{i}.feed_forward.experts.{e}.w1.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.up <- layers.{i}.feed_forward.experts.{e}.w3.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{i}.feed_forward.experts.{e}.w2.weight : transpose
""")


# llama.cpp always lets the weights of the chosen experts sum to one.
KEYS = {
    **without(LFM2_KEYS, "block_auto_adjust_ff_dim"),
    **experts(),
    "model_type": fixed("lfm2_moe"),
    "moe_intermediate_size": "expert_feed_forward_length",
    "routed_scaling_factor": optional("expert_weights_scale", 1.0),
    "num_dense_layers": optional("leading_dense_block_count", 0),
    "expert_gating_func": scores(SIGMOID),
}
GGUF = Gguf("lfm2moe", KEYS, LFM2_GGUF.weights + EXPERTS, by_layer=LFM2_GGUF.by_layer)

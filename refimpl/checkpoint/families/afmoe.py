"""Trinity (Arcee 2025): gated attention, with sliding windows in most layers and no positions in the others.

Each sublayer has a norm before and after it. A router with sigmoids and biases chooses the experts."""

from dataclasses import replace

from ...config import Decoder, Layer
from ..config_readers.decoder import decoder, map_layers, sigmoid_experts, with_experts
from ..config_readers.gguf_keys import DECODER, SIGMOID, experts, fixed, optional, scores, sliding_layers
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_masks, layer_types, read_window
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .cohere2 import with_positions_in_windows
from .llama import QK_NORM
from .qwen2_moe import WEIGHTS as QWEN2
from .qwen3 import with_qk_norm

MODEL_TYPES = ("afmoe",)
ARCHITECTURES: dict[str, Task] = decoders("Afmoe", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    # What the publisher's code can do otherwise: no class of transformers reads these.
    keys.harmless(score_func=("sigmoid",), route_norm=(True,), n_group=(1,), topk_group=(1,))
    keys.harmless(num_expert_groups=(1,), num_limited_groups=(1,), load_balance_coeff=(float,))
    keys.harmless(attention_bias=(False,), use_grouped_mm=(bool,))  # with biases its gate still has none
    keys.get("output_router_logits", bool, False)
    base = decoder(keys, context=16_384, attention_bias=False, eps=1e-5, head=128)
    every = keys.size("global_attn_every_n_layers", 4)
    types = layer_types(keys, lambda i: (i + 1) % every != 0)
    base = with_positions_in_windows(
        with_qk_norm(base), layer_masks(keys, types, read_window(keys, 1024, everywhere=False))
    )
    experts, top = keys.size("num_experts", 64), keys.size("num_experts_per_tok", 6)
    width, shared = keys.size("moe_intermediate_size", 1408), keys.size("num_shared_experts", 2)
    scale = keys.positive("route_scale", 1.0)
    base = with_experts(
        base,
        lambda mlp: sigmoid_experts(mlp, experts, top, width, scale=scale, shared=shared),
        keys.get("num_dense_layers", int, 1),
    )

    def normed(_: int, layer: Layer) -> Layer:
        attention, mlp = layer.attention, layer.mlp
        attention = replace(attention, output_gate=True, post=attention.pre)
        return replace(layer, attention=attention, mlp=replace(mlp, post=mlp.pre))

    scaled = keys.get("mup_enabled", bool, False)
    embedding = replace(base.embedding, scale=base.embedding.width**0.5 if scaled else None)
    return replace(map_layers(base, normed), embedding=embedding)


WEIGHTS = (
    QWEN2.renamed(
        {
            "post_attention_layernorm": "pre_mlp_layernorm",
            "mlp.gate.weight": "mlp.router.gate.weight",
            "mlp.shared_expert.": "mlp.shared_experts.",
        }
    )
    + QK_NORM
    + weight_map("""
    decoder.layers.{i}.{attn,mlp}_post.weight <- layers.{i}.post_{attention_layernorm,mlp_layernorm}.weight
    decoder.layers.{i}.attn.wg <- layers.{i}.self_attn.gate_proj.weight : transpose
    decoder.layers.{i}.mlp.bias <- layers.{i}.mlp.expert_bias
""")
)
KEYS = {
    **DECODER,
    **experts(),
    "model_type": fixed("afmoe"),
    "mup_enabled": fixed(True),
    "layer_types": sliding_layers(4),
    "sliding_window": "attention.sliding_window",
    "moe_intermediate_size": "expert_feed_forward_length",
    "num_shared_experts": "expert_shared_count",
    "num_dense_layers": optional("leading_dense_block_count", 0),
    "route_scale": optional("expert_weights_scale", 1.0),
    "route_norm": optional("expert_weights_norm", False),
    "expert_gating_func": scores(SIGMOID, default=SIGMOID),
}
GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS
    + EXPERTS
    + weight_map("""
    decoder.layers.{i}.{attn,mlp}_post.weight <- blk.{i}.post_{attention,ffw}_norm.weight
    decoder.layers.{i}.attn.wg <- blk.{i}.attn_gate.weight : transpose
""")
)
GGUF = Gguf("afmoe", KEYS, GGUF_WEIGHTS, by_layer=("attention.sliding_window_pattern",))

"""Ling 3 (inclusionAI 2026): Kimi delta attention with bounded decays. Every sixth layer has latent attention
with a gate for each head. The experts are DeepSeek-V3's.

Modules that predict further tokens are left out.
"""

from dataclasses import replace

from ...config import Decoder, Layer, MoE, RMSNorm, Rope
from ...ops.gated_delta import GatedDelta
from ...ops.latent_attention import LatentAttention
from ..config_readers.decoder import map_layers
from ..config_readers.gguf_keys import SHARED_WIDTH, SIGMOID_EXPERTS, always, fixed
from ..config_readers.keys import Keys
from ..config_readers.layers import sparse_layers
from ..config_readers.rope import rope
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .deepseek_v2 import GGUF_WEIGHTS as GGUF_LATENTS
from .deepseek_v2 import LATENT_KEYS, harmless_of_training, latent_decoder
from .deepseek_v2 import WEIGHTS as DEEPSEEK
from .glm4_moe import with_sigmoid_experts
from .kimi_linear import GGUF_DELTA, joined
from .kimi_linear import KEYS as KIMI
from .qwen3_next import attending_layers, mixed
from .step3p7 import bounded_experts, limits_by_layer

MODEL_TYPES = ("bailing_hybrid",)
ARCHITECTURES: dict[str, Task] = decoders("BailingHybrid", tasks=())
ARCHITECTURES |= {"BailingMoeV3ForCausalLM": "lm"}  # the publisher's name
DEFAULTS = {"q_lora_rank": None, "n_group": 8, "topk_group": 4, "moe_intermediate_size": 768}
DEFAULTS |= {"routed_scaling_factor": 2.5}
# The publisher's names of keys.
NAMES = {
    "max_position_embeddings": "model_max_length", "n_group": "num_expert_group",
    "norm_topk_prob": "moe_renormalize", "n_routed_experts": "num_experts",
    "num_experts_per_tok": "num_experts_per_token", "n_shared_experts": "num_shared_experts",
}  # fmt: skip

# transformers' names of the limits come second.
SWIGLU_LIMITS = (
    ("expert_swiglu_limit_list", "swiglu_limits"),
    ("share_expert_swiglu_limit_list", "swiglu_limits_shared"),
)


def config(keys: Keys, task: Task) -> Decoder:
    keys.choice("hidden_act", {"silu": "silu"}, "silu")  # the convolutions' kernels know no other
    keys.unused("num_nextn_predict_layers", "num_mtp_layers", "mtp_loss_scaling_factor", "pretraining_tp")
    # What the repository's own code could do otherwise.
    keys.harmless(no_kda_lora=(True,), rope_interleave=(True,), score_function=("sigmoid",))
    harmless_of_training(keys)
    keys.get("tie_word_embeddings", bool, False)  # transformers never ties the tables
    size = keys.size(keys.spelled("linear_head_dim"), keys.size("head_dim", 128))
    own = {key: value for key, value in keys.values.items() if key not in ("head_dim", "tie_word_embeddings")}
    for name, other in NAMES.items():
        if other in keys:
            own[name] = keys.stated(keys.spelled(name, other))
    if "rope_theta" in (keys.get("rope_parameters", dict, None) or ()):
        own.pop("rope_theta", None)  # transformers writes its default beside the one that counts
        keys.unused("rope_theta")
    usual = keys.replaced({**DEFAULTS, **own})
    base = latent_decoder(usual, context=262_144, rope_interleave=True, positions=_positions)
    base = map_layers(
        base, lambda _, layer: replace(layer, attention=replace(layer.attention, head_gate=True))
    )
    attention = base.layers[0].attention
    assert isinstance(attention, LatentAttention)
    heads = keys.size("linear_num_heads", attention.heads)
    length = keys.size("linear_conv_kernel_dim", keys.size("short_conv_kernel_size", 4))
    every = keys.size("layer_group_size", 6)
    attends = attending_layers(keys, [(i + 1) % every == 0 for i in range(len(base.layers))])
    base = with_sigmoid_experts(
        base,
        usual,
        experts=usual.size(usual.spelled("n_routed_experts", "num_local_experts"), 512),
        top=usual.size("num_experts_per_tok", 8),
        shared=usual.size("n_shared_experts", 1),
        sparse=sparse_layers(keys, 2),
        renormalize=usual.get("norm_topk_prob", bool, True),
    )
    base = _bounded(base, keys)
    safe, bound = keys.get("kda_safe_gate", bool, True), keys.get("kda_lower_bound", float, -5.0)
    if safe and bound >= 0:
        raise keys.fail("kda_lower_bound", "below 0")
    norm = base.layers[0].attention.pre
    assert isinstance(norm, RMSNorm)
    mixer = GatedDelta(
        heads, heads, size, size, length, norm.eps, by_channel=True, max_decay=-bound if safe else None
    )
    return mixed(base, mixer, attends)


def _bounded(config: Decoder, keys: Keys) -> Decoder:
    """Return the decoder with the limits that config.json states for experts and for shared experts."""
    count = len(config.layers)
    experts, shared = (limits_by_layer(keys, keys.spelled(own, other), count) for own, other in SWIGLU_LIMITS)

    def change(i: int, layer: Layer) -> Layer:
        if not isinstance(layer.mlp, MoE):
            return layer
        return replace(layer, mlp=bounded_experts(layer.mlp, experts[i], shared[i]))

    return map_layers(config, change)


def _positions(keys: Keys, size: int, context: int, *, theta: float) -> Rope | None:
    return rope(keys, size, context, theta=6_000_000.0)


# By the publisher's names, which transformers writes too.
ATTENTION = {"self_attn.": "attention.", "attention.o_proj": "attention.dense"}
WEIGHTS = (
    DEEPSEEK.renamed(
        ATTENTION | {"embed_tokens": "word_embeddings", "e_score_correction_bias": "expert_bias"}
    )
    + joined("wi", "layers.{{i}}.attention.{}_proj.weight", "transpose")
    + joined("conv", "layers.{{i}}.attention.{}_conv1d.weight", "taps")
    + weight_map("""
    embedding.table <- embed_tokens.weight
    decoder.layers.{i}.attn.{w_head_gate,wz} <- layers.{i}.attention.{g_proj,g_proj}.weight : transpose
    decoder.layers.{i}.attn.{wa,wb} <- layers.{i}.attention.{f,b}_proj.weight : transpose
    decoder.layers.{i}.attn.{a_log,dt_bias} <- layers.{i}.attention.{A_log,dt_bias}
    decoder.layers.{i}.attn.norm <- layers.{i}.attention.o_norm.weight
""")
)
KEYS = {
    **LATENT_KEYS,
    **SIGMOID_EXPERTS,
    "model_type": fixed("bailing_hybrid"),
    **{key: KIMI[key] for key in ("layer_types", "attention.head_count_kv", "attention.key_length")},
    "linear_head_dim": "kda.head_dim",
    "linear_conv_kernel_dim": "ssm.conv_kernel",
    "kda_safe_gate": always("kda.safe_gate", True),
    "kda_lower_bound": "kda.gate_lower_bound",
    **SHARED_WIDTH,
}
# The gates are whole matrices, and the decays' logarithms positive numbers.
GGUF_WEIGHTS = (
    GGUF_LATENTS
    + GGUF_DELTA.without("decoder.layers.{i}.attn.a_log")
    + weight_map("""
    decoder.layers.{i}.attn.{wa,wz} <- blk.{i}.{ssm_f_a,ssm_g_a}.weight : transpose
    decoder.layers.{i}.attn.w_head_gate <- blk.{i}.attn_gate.weight : transpose
    decoder.layers.{i}.attn.a_log <- blk.{i}.ssm_a : exp flatten
""")
)
GGUF = Gguf("bailingmoe3", KEYS, GGUF_WEIGHTS, by_layer=("attention.head_count_kv",))

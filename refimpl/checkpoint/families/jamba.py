"""Jamba (AI21 2024): layers of Mamba, and attention without positions in a few layers. Some layers have
experts.

The Mamba layers normalize the inputs from which steps, B and C are computed. The router's softmax covers all
experts, and the weights of the chosen experts aren't divided by their sum.
"""

from collections.abc import Container
from dataclasses import replace

from ...config import Attention, Decoder, Gated, Layer, MoE, RMSNorm
from ...ops.mamba import Mamba
from ..config_readers.decoder import build, map_layers
from ..config_readers.gguf_keys import (
    DECODER,
    always,
    experts,
    fixed,
    layers_with_heads,
    layers_without,
    somewhere,
    without,
)
from ..config_readers.gguf_states import EXPANDED, GGUF_MAMBA
from ..config_readers.gguf_weights import EXPERTS as GGUF_EXPERTS
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import head_size, layer_count
from ..config_readers.mamba import MIXER, convolved, step_rank
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .bamba import NAMES
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("jamba",)
ARCHITECTURES: dict[str, Task] = decoders("Jamba", tasks=("classify",))


def config(keys: Keys, task: Task) -> Decoder:
    convolved(keys)
    keys.unused("output_router_logits", "router_aux_loss_coef")  # of training
    # Of its first releases: no class of transformers' has another form, or reads the others.
    keys.harmless(mamba_inner_layernorms=(True,), sliding_window=(None,), n_ctx=(int,))
    keys.unused("num_logits_to_keep", "calc_logits_for_entire_prompt")
    width, norm = keys.size("hidden_size", 4096), RMSNorm(keys.positive("rms_norm_eps", 1e-6))
    heads = keys.size("num_attention_heads", 32)
    mlp = Gated(keys.size("intermediate_size", 14_336), "silu", pre=norm)
    attention = Attention(
        heads=heads,
        kv_heads=keys.size("num_key_value_heads", 8, null=True) or heads,
        head_size=keys.size("head_dim", None) or head_size(keys),
        pre=norm,
    )
    mixer = Mamba(
        width=keys.size("mamba_expand", 2) * width,
        state_size=keys.size("mamba_d_state", 16),
        rank=step_rank(keys, "mamba_dt_rank", width),
        length=keys.size("mamba_d_conv", 4),
        conv_bias=keys.get("mamba_conv_bias", bool, True),
        bias=keys.get("mamba_proj_bias", bool, False),
        norms="weighted",
        eps=norm.eps,
        pre=norm,
    )
    experts, top = keys.size("num_experts", 16), keys.size("num_experts_per_tok", 2)
    mixture = MoE(experts, top, mlp.width, mlp.activation, renormalize=False, pre=norm)
    attends, mixes = _places(keys)
    base = build(
        vocabulary=keys.size("vocab_size", 65_536),
        width=width,
        layers=layer_count(keys, default=32),
        attention=attention,
        mlp=mlp,
        tied=keys.get("tie_word_embeddings", bool, False),
        context=keys.size("max_position_embeddings", 262_144),
    )

    def change(i: int, layer: Layer) -> Layer:
        layer = layer if i in attends else replace(layer, attention=mixer)
        return replace(layer, mlp=mixture) if experts > 1 and i in mixes else layer

    return map_layers(base, change)


def _places(keys: Keys) -> tuple[Container[int], Container[int]]:
    """Return the numbers of the layers with attention, and of the layers with experts. A GGUF file lists
    them.
    """
    if not keys.of_gguf:
        return _every(keys, "attn_layer", 8, 4), _every(keys, "expert_layer", 2, 1)
    kinds, dense = keys.get("layer_types", list), keys.get("dense_layers", list)
    attends = [i for i, kind in enumerate(kinds) if kind == "attention"]
    return attends, [i for i in range(len(kinds)) if i not in dense]


def _every(keys: Keys, name: str, period: int, offset: int) -> range:
    """Return the layer numbers that two keys state: every `period`-th layer from `offset` on."""
    period, offset = keys.size(f"{name}_period", period), keys.get(f"{name}_offset", int, offset)
    if not 0 <= offset < period:
        raise keys.fail(f"{name}_offset", f"at least 0 and below {name}_period ({period})")
    return range(offset, 2**16, period)


EXPERTS = weight_map("""
    decoder.layers.{i}.mlp.router <- layers.{i}.moe.router.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.gate <- layers.{i}.moe.experts.{e}.gate_proj.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.up <- layers.{i}.moe.experts.{e}.up_proj.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.down <- layers.{i}.moe.experts.{e}.down_proj.weight : transpose
""")
WEIGHTS = (
    LLAMA.renamed(NAMES).without("decoder.norm.weight")
    + EXPERTS.renamed({".moe.": ".feed_forward."})
    + MIXER.renamed({".mixer.": ".mamba."})
    + weight_map("""
    decoder.norm.weight <- final_layernorm.weight
    decoder.layers.{i}.attn.{dt,b,c}_norm <- layers.{i}.mamba.{dt,b,c}_layernorm.weight
""")
)


GGUF_WEIGHTS = UNPERMUTED_QK_WEIGHTS + GGUF_MAMBA + GGUF_EXPERTS
KEYS = {
    **without(DECODER, "rope_theta", "rope_scaling", "partial_rotary_factor"),
    **layers_with_heads(("mamba", "attention")),
    **experts(),
    **EXPANDED,
    "model_type": fixed("jamba"),
    "dense_layers": layers_without("ffn_gate_inp.weight"),
    "mamba_d_state": "ssm.state_size",
    "mamba_dt_rank": "ssm.time_step_rank",
    "mamba_d_conv": "ssm.conv_kernel",
    "mamba_conv_bias": somewhere("ssm_conv1d.bias"),
    "expert_weights_norm": always("expert_weights_norm", False, told=False),
}
GGUF = Gguf("jamba", KEYS, GGUF_WEIGHTS, by_layer=("attention.head_count_kv",))

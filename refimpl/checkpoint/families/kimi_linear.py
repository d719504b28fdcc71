"""Kimi Linear (Kimi Team 2025, arXiv 2510.26692): Kimi delta attention, latent attention without positions in
every fourth layer, and DeepSeek-V3's experts.

GGUF files follow llama.cpp: the norms of latents have the same eps as the other norms, and delta attention
has as many heads as latent attention.
"""

from typing import Any

from ...config import Decoder, RMSNorm
from ...ops.gated_delta import GatedDelta
from ..config_readers.gguf_keys import (
    SIGMOID_EXPERTS,
    Row,
    always,
    experts,
    fixed,
    layers_with_heads,
    without,
)
from ..config_readers.gguf_metadata import kv_heads_by_layer
from ..config_readers.keys import ABSENT, Keys
from ..config_readers.layers import sparse_layers
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import WeightMap, weight_map
from . import Gguf, Task, decoders
from .deepseek_v2 import GGUF_WEIGHTS as GGUF_LATENTS
from .deepseek_v2 import LATENT_KEYS, LATENTS, harmless_of_training, latent_decoder, latent_heads
from .glm4_moe import with_sigmoid_experts
from .mixtral import WEIGHTS as MIXTRAL
from .qwen3_next import attending_layers, mixed

MODEL_TYPES = ("kimi_linear",)
ARCHITECTURES: dict[str, Task] = decoders("KimiLinear", tasks=())
DEFAULTS = {"rms_norm_eps": 1e-5, "q_lora_rank": None, "n_group": 1, "topk_group": 1}
DEFAULTS |= {"moe_intermediate_size": 1024, "routed_scaling_factor": 2.446}


def config(keys: Keys, task: Task) -> Decoder:
    keys.choice("hidden_act", {"silu": "silu"}, "silu")  # the convolutions' kernels know no other
    # What the repository's own code could do otherwise.
    keys.harmless(mla_use_nope=(True,), moe_router_activation_func=("sigmoid",), use_grouped_topk=(True,))
    keys.harmless(num_nextn_predict_layers=(0,))
    harmless_of_training(keys)
    # Nothing is rotated, sizes of heads are stated apart, and transformers never ties the tables.
    keys.unused("rope_theta", "rope_scaling", "rope_parameters", "head_dim")
    keys.get("tie_word_embeddings", bool, False)
    renamed = {
        "max_position_embeddings": keys.size(
            keys.spelled("model_max_length", "max_position_embeddings"), 1_048_576
        ),
        "n_group": keys.size(keys.spelled("num_expert_group", "n_group"), 1),
    }
    never = ("head_dim",) if keys.of_gguf else ("head_dim", "tie_word_embeddings")
    own = {key: value for key, value in keys.values.items() if key not in never}
    usual = keys.replaced({**DEFAULTS, **own, **renamed})
    base = latent_decoder(usual, context=1, rope_interleave=False, positions=lambda *_, **__: None)
    base = with_sigmoid_experts(
        base,
        usual,
        experts=keys.size(keys.spelled("num_experts", "num_local_experts"), 256),
        top=keys.size(keys.spelled("num_experts_per_token", "num_experts_per_tok"), 8),
        shared=keys.size(keys.spelled("num_shared_experts", "n_shared_experts"), 1),
        sparse=sparse_layers(keys, 1),
        renormalize=keys.get(keys.spelled("moe_renormalize", "norm_topk_prob"), bool, True),
    )
    return _with_delta(base, keys)


def _with_delta(base: Decoder, keys: Keys) -> Decoder:
    """Return the decoder with Kimi delta attention.

    `linear_attn_config` overrules other keys, except for the types of layers."""
    inner = Keys(keys.get("linear_attn_config", dict, None) or {}, f"{keys.where}: linear_attn_config")
    size = inner.size("head_dim", keys.size("linear_head_dim", 128))
    heads = inner.size("num_heads", keys.size("linear_num_heads", 32))
    length = inner.size("short_conv_kernel_size", keys.size("linear_conv_kernel_dim", 4))
    attends = attending_layers(keys, _attends(inner, len(base.layers)))
    inner.finish({})
    norm = base.layers[0].attention.pre
    assert isinstance(norm, RMSNorm)
    return mixed(base, GatedDelta(heads, heads, size, size, length, norm.eps, rank=size), attends)


def _attends(inner: Keys, layers: int) -> list[bool]:
    """Return which layers have attention: the layers in a list that counts from 1, or every fourth layer."""
    lists = [inner.get(f"{kind}_layers", list, None) for kind in ("full_attn", "kda")]
    if None in lists:
        return [i > 0 and i % 4 == 0 for i in range(layers)]
    full, delta = lists
    numbers = [*full, *delta]
    if any(type(n) is not int for n in numbers) or sorted(numbers) != list(range(1, layers + 1)):
        raise inner.fail(
            "full_attn_layers",
            f"a list that has, together with kda_layers, each number from 1 to {layers} once",
        )
    return [i + 1 in full for i in range(layers)]


def joined(leaf: str, tensor: str, steps: str) -> WeightMap:
    """Return a weight map that joins the separate weights of queries, keys and values into one parameter.

    The weights project or convolve queries, keys and values.
    """
    tensors = " + ".join(tensor.format(kind) for kind in "qkv")
    return weight_map(f"decoder.layers.{{i}}.attn.{leaf} <- {tensors} : {steps}")


# transformers writes dense mlps under the name of the experts.
MLP = [f"decoder.layers.{{i}}.mlp.{part}" for part in ("gate", "up", "down")]
SHARED = weight_map("""
    decoder.layers.{i}.mlp.shared.{gate,up} <- layers.{i}.SHARED.{gate,up}_proj.weight : transpose
    decoder.layers.{i}.mlp.shared.down <- layers.{i}.SHARED.down_proj.weight : transpose
""").renamed({"SHARED": "block_sparse_moe.shared_experts"})
WEIGHTS = (
    MIXTRAL.without(*MLP)
    + SHARED
    + LATENTS
    + joined("wi", "layers.{{i}}.self_attn.{}_proj.weight", "transpose")
    + joined("conv", "layers.{{i}}.self_attn.{}_conv1d.weight", "taps")
    + weight_map("""
    decoder.layers.{i}.mlp.gate <- layers.{i}.(mlp|block_sparse_moe).gate_proj.weight : transpose
    decoder.layers.{i}.mlp.up <- layers.{i}.(mlp|block_sparse_moe).up_proj.weight : transpose
    decoder.layers.{i}.mlp.down <- layers.{i}.(mlp|block_sparse_moe).down_proj.weight : transpose
    decoder.layers.{i}.mlp.bias <- layers.{i}.block_sparse_moe.gate.e_score_correction_bias
    decoder.layers.{i}.attn.{wz_a,wz,wb} <- layers.{i}.self_attn.{g_a,g_b,b}_proj.weight : transpose
    decoder.layers.{i}.attn.{wa_a,wa} <- layers.{i}.self_attn.f_{a,b}_proj.weight : transpose
    decoder.layers.{i}.attn.a_log <- layers.{i}.self_attn.A_log : flatten
    decoder.layers.{i}.attn.dt_bias <- layers.{i}.self_attn.dt_bias
    decoder.layers.{i}.attn.norm <- layers.{i}.self_attn.o_norm.weight
""")
)


GGUF_DELTA = (
    joined("wi", "blk.{{i}}.attn_{}.weight", "transpose")
    + joined("conv", "blk.{{i}}.ssm_conv1d_{}.weight", "taps")
    + weight_map("""
    decoder.layers.{i}.attn.{wi,wz_a,wz} <- blk.{i}.{attn_qkv,ssm_g_a,ssm_g_b}.weight : transpose
    decoder.layers.{i}.attn.{wb,wa_a,wa} <- blk.{i}.ssm_{beta,f_a,f_b}.weight : transpose
    decoder.layers.{i}.attn.a_log <- blk.{i}.ssm_a : negated_exp flatten
    decoder.layers.{i}.attn.dt_bias <- blk.{i}.ssm_dt.bias
    decoder.layers.{i}.attn.norm <- blk.{i}.ssm_norm.weight
""")
)


def _unused(keys: Keys, _: TensorSource) -> Any:
    """Check keys that llama.cpp's converter writes but the model doesn't use: a head's size and a
    rotation.
    """
    rank, rotated = keys.size("attention.kv_lora_rank"), keys.size("rope.dimension_count")
    keys.restated("attention.key_length", rank + rotated, f"latent plus rotary key ({rank + rotated})")
    keys.unused("attention.value_length", "rope.freq_base")
    return ABSENT


KEYS = {
    **without(LATENT_KEYS, "rope_theta", "rope_scaling", "attention.key_length"),
    **without(SIGMOID_EXPERTS, "n_routed_experts"),
    **experts(),
    "model_type": fixed("kimi_linear"),
    "layer_types": layers_with_heads()["layer_types"],
    "attention.head_count_kv": Row(lambda keys, _: latent_heads(keys, max(kv_heads_by_layer(keys)))),
    "attention.key_length": Row(_unused),
    "norm_topk_prob": always("expert_weights_norm", True),
    "linear_num_heads": "attention.head_count",
    "linear_head_dim": "kda.head_dim",
    "linear_conv_kernel_dim": "ssm.conv_kernel",
}
GGUF = Gguf("kimi-linear", KEYS, GGUF_LATENTS + GGUF_DELTA, by_layer=("attention.head_count_kv",))

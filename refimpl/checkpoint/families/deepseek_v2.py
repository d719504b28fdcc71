"""DeepSeek-V2 (DeepSeek-AI 2024): latent attention, and experts beside shared experts. A token chooses only
among the experts of its best groups.

In GGUF the norms of latents have the same eps as the other norms, because llama.cpp computes them so. In a
checkpoint this eps is 1e-6. As in the paper, a group's best expert decides whether the group is chosen; in
llama.cpp its two best experts decide.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from ...config import ONE_GROUP, Decoder, ExpertGroups, Gated, MoE, RMSNorm, Rope, Yarn
from ...ops.latent_attention import LatentAttention
from ..config_readers.decoder import decoder, map_layers, with_experts
from ..config_readers.gguf_keys import (
    DECODER,
    SIGMOID,
    SIGMOID_EXPERTS,
    SOFTMAX,
    Row,
    Table,
    fixed,
    optional,
    scores,
    trunk_layers,
    without,
)
from ..config_readers.gguf_rope import rope_scaling
from ..config_readers.gguf_weights import EXPERTS, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import ABSENT, Keys
from ..config_readers.rope import rope, yarn_magnitude
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .glm4_moe import WITHOUT_MTP as GLM4_MOE

MODEL_TYPES = ("deepseek_v2",)
ARCHITECTURES: dict[str, Task] = decoders("DeepseekV2", tasks=("classify",))


def config(keys: Keys, task: Task) -> Decoder:
    # What DeepSeek's own code could do otherwise: no class reads these.
    keys.harmless(scoring_func=("softmax",), mlp_bias=(False,))
    if not keys.of_gguf:
        keys.harmless(norm_topk_prob=(False, None))
    harmless_of_training(keys)
    base = latent_decoder(keys, context=2048, rope_interleave=True)
    return with_experts(base, partial(_mixture, keys), keys.get("first_k_dense_replace", int, 0))


def harmless_of_training(keys: Keys) -> None:
    """Mark keys as known that say how a model was trained, or on how many machines it runs."""
    keys.harmless(aux_loss_alpha=(float,), seq_aux=(bool,), ep_size=(int,), moe_layer_freq=(1,))
    keys.get("pretraining_tp", int, 1, null=True)  # several slices of one product, summed
    keys.get("output_router_logits", bool, False)


def _mixture(keys: Keys, mlp: Gated) -> MoE:
    groups = ONE_GROUP
    if keys.choice("topk_method", {"greedy": False, "group_limited_greedy": True}, "greedy"):
        groups = ExpertGroups(keys.size("n_group"), keys.size("topk_group"), "max")
    keys.unused("n_group", "topk_group")  # of the other method
    width, scale = keys.size("moe_intermediate_size", 1407), keys.positive("routed_scaling_factor", 1.0)
    return MoE(
        keys.size(keys.spelled("n_routed_experts", "num_experts"), 64),
        keys.size("num_experts_per_tok"),
        width,
        mlp.activation,
        renormalize=keys.of_gguf and keys.get("norm_topk_prob", bool),
        scale=None if scale == 1 else scale,
        shared=width * keys.size("n_shared_experts", 2),
        groups=groups,
        **mlp.norms_around,
    )


def latent_decoder(
    keys: Keys, *, context: int, rope_interleave: bool, positions: Callable[..., Rope | None] = rope
) -> Decoder:
    """Return a decoder with latent attention and gated mlps in all layers. `positions` is passed to
    `decoder`."""
    heads, rotated = keys.size("num_attention_heads"), keys.size("qk_rope_head_dim", 64)
    plain, values = keys.size("qk_nope_head_dim", 128), keys.size("v_head_dim", 128)
    # What transformers derives and writes.
    keys.restated("head_dim", rotated, f"qk_rope_head_dim ({rotated})")
    keys.restated("qk_head_dim", plain + rotated, f"qk_nope_head_dim + qk_rope_head_dim ({plain + rotated})")
    if keys.size("num_key_value_heads", heads, null=True) not in (None, heads):
        raise keys.fail("num_key_value_heads", f"num_attention_heads ({heads}): each head has its own keys")
    base = decoder(
        keys, kv_heads=heads, context=context, attention_bias=False, head=rotated, positions=positions
    )
    position, pre = base.ropes[0] if base.ropes else None, base.layers[0].attention.pre
    assert isinstance(pre, RMSNorm)
    return with_latents(
        base,
        LatentAttention(
            heads=heads,
            rank=keys.size("kv_lora_rank", 512),
            key_size=plain,
            value_size=values,
            position=position and replace(position, interleaved=rope_interleave),
            shared_size=None if position else rotated,
            query_rank=keys.size("q_lora_rank", 1536, null=True),
            bias=keys.get("attention_bias", bool, False),
            scale=_scale(position, plain + rotated, _all_dims(keys)),
            norm_eps=pre.eps if keys.of_gguf else 1e-6,  # llama.cpp has one for all norms
            pre=pre,
        ),
    )


def with_latents(config: Decoder, attention: LatentAttention) -> Decoder:
    """Return the decoder with the given latent attention in each layer."""
    return map_layers(config, lambda _, layer: replace(layer, attention=attention))


def _all_dims(keys: Keys) -> float:
    """Return mscale_all_dim, which was checked as one of the rotary keys, or 0 if it is absent."""
    rotary = keys.values.get("rope_parameters") or keys.values.get("rope_scaling") or {}
    return rotary.get("mscale_all_dim") or 0


def _scale(position: Rope | None, size: int, all_dims: float) -> float | None:
    """Return the scale of attention scores with YaRN. YaRN's magnitude counts also for parts of heads not
    rotated.
    """
    if position is None or not isinstance(position.scaling, Yarn) or not all_dims:
        return None
    return size**-0.5 * yarn_magnitude(position.scaling.factor, all_dims) ** 2


LATENTS = weight_map("""
    decoder.layers.{i}.attn.{wq_a,wq} <- layers.{i}.self_attn.q_{a,b}_proj.weight : transpose
    decoder.layers.{i}.attn.{bq,bkv}_a <- layers.{i}.self_attn.{q_a_proj,kv_a_proj_with_mqa}.bias
    decoder.layers.{i}.attn.{q,kv}_norm <- layers.{i}.self_attn.{q,kv}_a_layernorm.weight
    decoder.layers.{i}.attn.wkv_a <- layers.{i}.self_attn.kv_a_proj_with_mqa.weight : transpose
    decoder.layers.{i}.attn.wk_b, wv_b <- layers.{i}.self_attn.kv_b_proj.weight : transpose keys_values
""")
WEIGHTS = GLM4_MOE + LATENTS


GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS
    + EXPERTS
    + weight_map("""
    decoder.layers.{i}.attn.{wq_a,wq,wkv_a} <- blk.{i}.attn_{q_a,q_b,kv_a_mqa}.weight : transpose
    decoder.layers.{i}.attn.{q,kv}_norm <- blk.{i}.attn_{q,kv}_a_norm.weight
    decoder.layers.{i}.attn.wk_b, wv_b <- blk.{i}.attn_kv_b.weight : transpose keys_values
    decoder.layers.{i}.attn.wk_b <- blk.{i}.attn_k_b.weight : by_head
    decoder.layers.{i}.attn.wv_b <- blk.{i}.attn_v_b.weight : swap by_head
""")
)


def _end(keys: Keys) -> str:
    """Return the end of the key that states a head's size. Newer files have another key, and call the latent
    a head.
    """
    return "_mla" if "attention.key_length_mla" in keys else ""


def _plain(keys: Keys, _: TensorSource) -> int:
    """Return the size of the part of a head that isn't rotated."""
    key, rotated = f"attention.key_length{_end(keys)}", keys.size(ROTATED)
    if keys.size(key) <= rotated:
        raise keys.fail(key, f"greater than {ROTATED} ({rotated})")
    return keys.size(key) - rotated


def _latent_sizes(keys: Keys, _: TensorSource) -> Any:
    """Check the sizes that newer files state for the latent."""
    if _end(keys):
        rank, rotated = keys.size(RANK), keys.size(ROTATED)
        keys.restated("attention.key_length", rank + rotated, f"latent plus rotary key ({rank + rotated})")
        keys.restated("attention.value_length", rank, f"the latent's size ({rank})")
    return ABSENT


def latent_heads(keys: Keys, stated: int | None) -> Any:
    """Check the number of key/value heads in a GGUF file, if the file states it."""
    heads = 1 if _end(keys) else keys.size("attention.head_count")
    if stated not in (None, heads):
        must = "1, the latent" if _end(keys) else f"the number of heads, {heads}"
        raise keys.fail("attention.head_count_kv", must)
    return ABSENT


def _scaling(keys: Keys, source: TensorSource) -> dict[str, Any]:
    """Return the rotary keys. With YaRN llama.cpp scales scores, not the rotation, by a tenth of
    mscale_all_dim.
    """
    stated = rope_scaling(keys, source, keys.size(ROTATED))
    keys.get(MULTIPLIER, float, 0.0)
    if stated["rope_type"] != "yarn":
        return stated
    scale = 10 * keys.positive(MULTIPLIER)
    return {**stated, "mscale": scale, "mscale_all_dim": scale}


ROTATED, RANK = "rope.dimension_count", "attention.kv_lora_rank"
MULTIPLIER = "rope.scaling.yarn_log_multiplier"
LATENT_KEYS: Table = {
    **without(DECODER, "head_dim", "num_key_value_heads", "partial_rotary_factor"),
    "rope_scaling": Row(_scaling),
    "kv_lora_rank": RANK,
    "q_lora_rank": optional("attention.q_lora_rank", None),
    "qk_rope_head_dim": ROTATED,
    "qk_nope_head_dim": Row(_plain),
    "v_head_dim": Row(lambda keys, _: keys.size(f"attention.value_length{_end(keys)}")),
    "attention.key_length": Row(_latent_sizes),
    "attention.head_count_kv": Row(
        lambda keys, _: latent_heads(keys, keys.size("attention.head_count_kv", None))
    ),
}
V2 = {
    **LATENT_KEYS,
    **SIGMOID_EXPERTS,
    "model_type": fixed("deepseek_v2"),
    "topk_method": fixed("group_limited_greedy"),
    "expert_gating_func": scores(SIGMOID, SOFTMAX, default=SOFTMAX),
}
V3 = {
    **LATENT_KEYS,
    **SIGMOID_EXPERTS,
    "model_type": fixed("deepseek_v3"),
    "num_hidden_layers": Row(trunk_layers, "block_count"),
    "num_nextn_predict_layers": fixed(0),
    "expert_gating_func": scores(SIGMOID, default=SIGMOID),
}


def table(keys: Keys) -> Table:
    """Return GGUF's table of keys for the model in the file: DeepSeek-V2 or DeepSeek-V3.

    Both models have the same architecture name. DeepSeek-V3 chooses experts by sigmoids; no key states V2's
    softmax. GLM-4.7-Flash has V3's form. The first files of it don't state the sigmoids: as in llama.cpp, the
    numbers of layers and tokens tell them.
    """
    flash = keys.get("block_count", int, 0) in (47, 48) and keys.get("vocab_size", int, 0) == FLASH_TOKENS
    return V3 if keys.get("expert_gating_func", int, SIGMOID if flash else SOFTMAX) == SIGMOID else V2


FLASH_TOKENS = 154_880
GGUF = Gguf("deepseek2", table, GGUF_WEIGHTS + weight_map("left out <- blk.{n}.*"))

"""DeepSeek-V2 (DeepSeek-AI 2024): latent attention, and experts of which a token may choose among those of
its best groups, beside shared ones.

In GGUF the norms of latents have the eps of the others, as llama.cpp computes them; a checkpoint's is 1e-6.
Groups count by their best expert there too, as in the paper, where llama.cpp takes the two best.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from ..config import ONE_GROUP, Decoder, ExpertGroups, Gated, MoE, RMSNorm, Rope, Yarn
from ..config_readers.decoder import decoder, gguf_decoder, map_layers, with_experts
from ..config_readers.gguf_metadata import UNPERMUTED_QK_WEIGHTS
from ..config_readers.gguf_moe import EXPERTS, with_gguf_sigmoid_experts
from ..config_readers.keys import Keys
from ..config_readers.rope import rope, yarn_magnitude
from ..formats.tensor_source import TensorSource
from ..ops.latent_attention import LatentAttention
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .glm4_moe import WITHOUT_MTP as GLM4_MOE

MODEL_TYPES = ("deepseek_v2",)
ARCHITECTURES: dict[str, Task] = decoders("DeepseekV2", tasks=("classify",))
PREFIX = "model."


def config(keys: Keys, task: Task) -> Decoder:
    # What DeepSeek's own code could do otherwise: no class reads these.
    keys.harmless(scoring_func=("softmax",), norm_topk_prob=(False, None), mlp_bias=(False,))
    harmless_of_training(keys)
    base = latent_decoder(keys, context=2048, rope_interleave=True)
    return with_experts(base, partial(_mixture, keys), keys.get("first_k_dense_replace", int, 0))


def harmless_of_training(keys: Keys) -> None:
    """Mark the keys that say how a model was trained, or on how many machines it runs."""
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
        renormalize=False,
        scale=None if scale == 1 else scale,
        shared=width * keys.size("n_shared_experts", 2),
        groups=groups,
        pre=mlp.pre,
    )


def latent_decoder(
    keys: Keys, *, context: int, rope_interleave: bool, positions: Callable[..., Rope | None] = rope
) -> Decoder:
    """A decoder with latent attention and gated mlps in all layers; `positions` is that of `decoder`."""
    heads, rotated = keys.size("num_attention_heads"), keys.size("qk_rope_head_dim", 64)
    plain, values = keys.size("qk_nope_head_dim", 128), keys.size("v_head_dim", 128)
    # What transformers derives and writes.
    keys.restated("head_dim", rotated, f"qk_rope_head_dim, {rotated}")
    keys.restated("qk_head_dim", plain + rotated, f"the sum of both parts, {plain + rotated}")
    if keys.size("num_key_value_heads", heads, null=True) not in (None, heads):
        raise keys.fail("num_key_value_heads", f"num_attention_heads, {heads}: each head has its own keys")
    base = decoder(
        keys,
        kv_heads=heads,
        context=context,
        attention_bias=False,
        mlp_bias=False,
        head=rotated,
        positions=positions,
    )
    position = base.ropes[0] if base.ropes else None
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
            pre=base.layers[0].attention.pre,
        ),
    )


def with_latents(config: Decoder, attention: LatentAttention) -> Decoder:
    """The decoder with latent attention in each layer."""
    return map_layers(config, lambda _, layer: replace(layer, attention=attention))


def _all_dims(keys: Keys) -> float:
    """mscale_all_dim, which was checked as part of the rotary keys; 0 where there is none."""
    rotary = keys.values.get("rope_parameters") or keys.values.get("rope_scaling") or {}
    return rotary.get("mscale_all_dim") or 0


def _scale(position: Rope | None, size: int, all_dims: float) -> float | None:
    """The scale of scores with YaRN: its magnitude counts for the parts of heads that aren't rotated too."""
    if position is None or not isinstance(position.scaling, Yarn) or not all_dims:
        return None
    return size**-0.5 * yarn_magnitude(position.scaling.factor, all_dims) ** 2


LATENTS = weight_map("""
    decoder.layers.{i}.attn.wq_a <- layers.{i}.self_attn.q_a_proj.weight : transpose
    decoder.layers.{i}.attn.bq_a <- layers.{i}.self_attn.q_a_proj.bias
    decoder.layers.{i}.attn.q_norm <- layers.{i}.self_attn.q_a_layernorm.weight
    decoder.layers.{i}.attn.wq <- layers.{i}.self_attn.q_b_proj.weight : transpose
    decoder.layers.{i}.attn.wkv_a <- layers.{i}.self_attn.kv_a_proj_with_mqa.weight : transpose
    decoder.layers.{i}.attn.bkv_a <- layers.{i}.self_attn.kv_a_proj_with_mqa.bias
    decoder.layers.{i}.attn.kv_norm <- layers.{i}.self_attn.kv_a_layernorm.weight
    decoder.layers.{i}.attn.wk_b, wv_b <- layers.{i}.self_attn.kv_b_proj.weight : transpose keys_values
""")
WEIGHTS = GLM4_MOE + LATENTS


def gguf_config(keys: Keys, source: TensorSource) -> Decoder:
    return with_gguf_sigmoid_experts(latent_gguf_decoder(keys, source), keys, softmax=True)


def latent_gguf_decoder(keys: Keys, source: TensorSource, *, rotates: bool = True) -> Decoder:
    """`latent_decoder` from GGUF's metadata; newer files state a head's sizes apart, and call the latent a
    single head. Without `rotates` what would be rotated stays as it is."""
    rank, rotated = keys.size("attention.kv_lora_rank"), keys.size("rope.dimension_count")
    heads, newer = keys.size("attention.head_count"), "attention.key_length_mla" in keys.values
    if newer:
        keys.restated("attention.key_length", rank + rotated, f"latent and rotary key, {rank + rotated}")
        keys.restated("attention.value_length", rank, f"the latent, {rank}")
        keys.restated("attention.head_count_kv", 1, "1, the latent")
    else:
        keys.restated("attention.head_count_kv", heads, f"the number of heads, {heads}")
    end = "_mla" if newer else ""
    size, values = keys.size(f"attention.key_length{end}"), keys.size(f"attention.value_length{end}")
    if size <= rotated:
        raise keys.fail(f"attention.key_length{end}", f"greater than rope.dimension_count, {rotated}")
    own = dict.fromkeys(("attention.key_length", "attention.value_length"), rotated)
    own_keys = keys.replaced({**keys.values, **own, "attention.head_count_kv": heads})
    base = gguf_decoder(own_keys, source, rotates=rotates)
    position, norm = base.ropes[0] if rotates else None, base.layers[0].attention.pre
    multiplier = keys.get("rope.scaling.yarn_log_multiplier", float, 0.0)
    if position is not None:
        position = replace(position, interleaved=True)
        if isinstance(position.scaling, Yarn):
            # The multiplier is a tenth of mscale_all_dim. llama.cpp scales scores by it, not the rotation.
            multiplier = keys.positive("rope.scaling.yarn_log_multiplier")
            position = replace(position, scaling=replace(position.scaling, magnitude=1.0))
    assert isinstance(norm, RMSNorm)
    attention = LatentAttention(
        heads=heads,
        rank=rank,
        key_size=size - rotated,
        value_size=values,
        position=position,
        shared_size=None if rotates else rotated,
        query_rank=keys.size("attention.q_lora_rank", None),
        norm_eps=norm.eps,
        scale=_scale(position, size, 10 * multiplier),
        pre=norm,
    )
    return with_latents(base, attention)


GGUF_WEIGHTS = (
    UNPERMUTED_QK_WEIGHTS
    + EXPERTS
    + weight_map("""
    decoder.layers.{i}.attn.wq_a <- blk.{i}.attn_q_a.weight : transpose
    decoder.layers.{i}.attn.q_norm <- blk.{i}.attn_q_a_norm.weight
    decoder.layers.{i}.attn.wq <- blk.{i}.attn_q_b.weight : transpose
    decoder.layers.{i}.attn.wkv_a <- blk.{i}.attn_kv_a_mqa.weight : transpose
    decoder.layers.{i}.attn.kv_norm <- blk.{i}.attn_kv_a_norm.weight
    decoder.layers.{i}.attn.wk_b, wv_b <- blk.{i}.attn_kv_b.weight : transpose keys_values
    decoder.layers.{i}.attn.wk_b <- blk.{i}.attn_k_b.weight : by_head
    decoder.layers.{i}.attn.wv_b <- blk.{i}.attn_v_b.weight : swap by_head
""")
)
GGUF = Gguf("deepseek2", gguf_config, GGUF_WEIGHTS)

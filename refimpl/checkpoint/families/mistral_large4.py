"""The text part of Mistral Large 4 (Mistral AI 2026): GLM-5's attention and Mistral Small 4's experts.

Queries have no latent, and attention's and the indexer's are scaled by learned numbers of each head. Every
fourth layer has no positions. The other layers rotate by frequencies with learned factors (LeRoPE), which
only a tensor states. Layers that share the latents of an earlier layer (`kv_source_layers`) are refused.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ...config import LM, Config, Decoder, Layer, RMSNorm, SharedIndexer
from ...errors import CheckpointError
from ...ops.latent_attention import LatentAttention
from ..config_readers.decoder import map_layers, with_experts
from ..config_readers.keys import Keys
from ..config_readers.layers import rotated_layers, sparse_layers, stated_types
from ..config_readers.rope import ORIGINAL
from ..config_readers.text_part import TextModel, sizes, text_part
from ..formats.named_tensors import Tensors, stripped
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Task, mistral4
from .deepseek_v2 import latent_decoder
from .deepseek_v32 import INDEXER, TYPES, read_indexer
from .glm_moe_dsa import indexer_types
from .llava import LEFT_OUT
from .llava import PREFIX as PREFIX

MODEL_TYPES = ("mistral_large4",)
ARCHITECTURES: dict[str, Task] = {"MistralLarge4ForConditionalGeneration": "lm"}
DEFAULTS = {
    "q_lora_rank": None,
    "qk_nope_head_dim": 64,
    "moe_intermediate_size": 6144,
    "rms_norm_eps": 1e-5,
}
ROPE = {
    "rope_type": "yarn", "rope_theta": 10_000.0, "factor": 2048.0, ORIGINAL: 512, "beta_fast": 32.0,
    "beta_slow": 1.0, "attention_factor": 1.0,
}  # fmt: skip
FACTORS = "lerope.alpha", "rotary_emb.alpha"  # of either spelling, their logarithms
LARGEST = 87  # of which the exponential is a number of float32


def _text(keys: Keys, task: Task) -> Decoder:
    keys.harmless(q_lora_rank=(None,), mlp_bias=(False,), norm_topk_prob=(True,))
    keys.harmless(rope_interleave=(True,), indexer_rope_interleave=(True,), head_dim=(int,))
    keys.get("output_router_logits", bool, False)  # of training
    # An empty rope_parameters means plain frequencies, and an empty rope_scaling means the default.
    stated = keys.get("rope_parameters", dict, None) is not None or keys.get("rope_scaling", dict, None)
    experts = keys.size(keys.spelled("n_routed_experts", "num_local_experts", "num_experts"), 128)
    values = {**DEFAULTS, **keys.values, "n_routed_experts": experts}
    values |= {} if stated else {"rope_parameters": ROPE}
    # Whatever head_dim states, transformers sets it to qk_rope_head_dim.
    keys = keys.replaced({key: value for key, value in values.items() if key != "head_dim"})
    base = latent_decoder(keys, context=1_048_576, rope_interleave=True)
    count, indexer = len(base.layers), read_indexer(keys, heads=32, interleaved=True)
    stated_types(keys, TYPES)
    if keys.get("kv_source_layers", list, None) not in (None, [*range(count)]):
        raise keys.fail(
            "kv_source_layers", f"the list 0 to {count - 1}, because tfm doesn't share latents between layers"
        )
    rotated = rotated_layers(keys, keys.get("no_rope_layers", list, None))
    types = indexer_types(keys, count)

    def indexed(i: int, layer: Layer) -> Layer:
        latent: Any = layer.attention
        assert isinstance(latent, LatentAttention)
        assert isinstance(latent.pre, RMSNorm)
        own = indexer if types[i] == "full" else SharedIndexer(indexer.topk)
        latent = replace(latent, indexer=own, log_scale=True, norm_eps=latent.pre.eps)
        if not rotated[i]:
            latent = replace(latent, position=None, shared_size=0, key_size=latent.head_size)
        return replace(layer, attention=latent)

    cap = keys.positive("final_logit_softcapping", 30.0)
    base = replace(map_layers(base, indexed), head=LM(keys.get("tie_word_embeddings", bool, False), cap))
    return with_experts(base, partial(mistral4.mixture, keys), sparse_layers(keys, 1))


TEXT = TextModel(_text, sizes(204_800, 6144, mlp=24_576, layers=72, heads=64))
config = text_part(
    {"mistral_large4_text": TEXT}, "mistral_large4_text", tied=False, unused=(
        "vision_config", "image_token_index", "image_token_id", "projector_hidden_act",
        "vision_feature_layer", "multimodal_projector_bias", "spatial_merge_size",
    ),
)  # fmt: skip


def with_tensors(config: Config, source: TensorSource) -> Config:
    """Return the decoder with the learned factors of its rotary frequencies.

    Raises CheckpointError if their tensor is missing, or has another shape or numbers without an exponential.
    """
    if not isinstance(config, Decoder) or not config.ropes:
        return config
    pairs = config.ropes[0].dims // 2
    tensors = Tensors(stripped(source, PREFIX))
    name, *others = [name for name in FACTORS if name in tensors.names] or [None]
    if name is None:
        raise CheckpointError(f"tensor {FACTORS[0]!r} is missing: rotary positions need this tensor")
    if others:
        raise CheckpointError(f"a tensor must not be stored twice: {name!r} and {others[0]!r}")
    if (shape := tensors.shape(name)) != (pairs,):
        raise CheckpointError(f"tensor {name!r} must have shape [{pairs}], but it has {list(shape)}")
    logs = tensors.load(name).astype(np.float64)
    if not (np.abs(logs) < LARGEST).all():
        raise CheckpointError(f"tensor {name!r} must have only numbers between -{LARGEST} and {LARGEST}")
    factors = tuple(np.exp(logs).tolist())

    def learned(_: int, layer: Layer) -> Layer:
        latent: Any = layer.attention
        position = latent.position and replace(latent.position, factors=factors)
        return replace(layer, attention=replace(latent, position=position))

    return map_layers(config, learned)


# The publisher's names, under which transformers saves the model too.
PUBLISHED = weight_map("""
    {embedding,head}.table <- {tok_embeddings,output}.weight
    embedding.table == output.weight
    decoder.layers.{i}.{attn,mlp}_pre.weight <- layers.{i}.{attention,ffn}_norm.weight
    decoder.layers.{i}.attn.{wq,wkv_a,wo} <- layers.{i}.attention.{wq,wkv_a_with_mqa,wo}.weight : transpose
    decoder.layers.{i}.attn.{bkv_a,bo} <- layers.{i}.attention.{wkv_a_with_mqa,wo}.bias
    decoder.layers.{i}.attn.kv_norm <- layers.{i}.attention.kv_a_norm.weight
    decoder.layers.{i}.attn.wk_b, wv_b <- layers.{i}.attention.wkv_b.weight : transpose keys_values
    decoder.layers.{i}.attn.q_{slope,offset} <- layers.{i}.attention.ssmax_scaling.{s,b}
    decoder.layers.{i}.attn.{wq,wk}_index <- layers.{i}.attention.indexer.{wq_b,wk}.weight : transpose
    decoder.layers.{i}.attn.w_index <- layers.{i}.attention.indexer.weights_proj.weight : transpose
    decoder.layers.{i}.attn.index_{norm,bias} <- layers.{i}.attention.indexer.k_norm.{weight,bias}
    decoder.layers.{i}.attn.index_q_{norm,bias} <- layers.{i}.attention.indexer.q_input_norm.{weight,bias}
    decoder.layers.{i}.attn.index_{slope,offset} <- layers.{i}.attention.indexer.ssmax_scaling.{s,b}
    decoder.layers.{i}.mlp.{gate,up,down} <- layers.{i}.feed_forward.w{1,3,2}.weight : transpose
    decoder.layers.{i}.mlp.router <- layers.{i}.gate.weight : transpose
    decoder.layers.{i}.mlp.experts.{e}.{gate,up,down} <- layers.{i}.experts.{e}.w{1,3,2}.weight : transpose
    decoder.layers.{i}.mlp.shared.{gate,up,down} <- layers.{i}.shared_experts.w{1,3,2}.weight : transpose
    decoder.norm.weight <- norm.weight
    nothing <- lerope.alpha
    left out <- {vision_encoder,vision_language_adapter,patch_merger,pre_mm_projector_norm,mtp_dspark}.*
""")
# The names of transformers' own modules, which adapters have.
OF_MODULES = weight_map("""
    decoder.layers.{i}.attn.q_{slope,offset} <- layers.{i}.self_attn.softmax_scaling.{scale,bias}
    decoder.layers.{i}.attn.index_q_{norm,bias} <- layers.{i}.self_attn.indexer.q_input_norm.{weight,bias}
    decoder.layers.{i}.attn.index_{slope,offset} <- layers.{i}.self_attn.indexer.softmax_scaling.{scale,bias}
    nothing <- rotary_emb.alpha
""")
WEIGHTS = PUBLISHED + mistral4.WEIGHTS + INDEXER + OF_MODULES + LEFT_OUT

"""DeepSeek-V3.2 (DeepSeek-AI 2025): DeepSeek-V3 with an indexer, which chooses the tokens that attention
reads.

DeepSeek's code computes the indexer's scores in 8 bits. Here the scores have the model's float type, as in
transformers. tfm leaves out the layers after the last, which predict further tokens, as transformers and GGUF
do.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...config import Decoder, Indexer, TokenMixer
from ...ops.latent_attention import LatentAttention
from ..config_readers.decoder import map_layers
from ..config_readers.gguf_keys import SIGMOID_EXPERTS, Row, fixed, trunk_layers
from ..config_readers.keys import Keys
from ..config_readers.layers import stated_types
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .deepseek_v2 import GGUF_WEIGHTS as GGUF_LATENTS
from .deepseek_v2 import LATENT_KEYS, harmless_of_training, latent_decoder
from .deepseek_v2 import WEIGHTS as LATENTS
from .deepseek_v3 import DEFAULTS
from .glm4_moe import with_sigmoid_experts

MODEL_TYPES = ("deepseek_v32",)
ARCHITECTURES: dict[str, Task] = decoders("DeepseekV32", tasks=())
TYPES = ("indexed_attention",)  # of all layers


def config(keys: Keys, task: Task) -> Decoder:
    return indexed_decoder(keys, DEFAULTS, context=163_840, index_heads=64, interleaved=False)


def indexed_decoder(
    keys: Keys, defaults: Mapping[str, Any], *, context: int, index_heads: int, interleaved: bool
) -> Decoder:
    """Return a decoder with an indexer in each layer. `defaults` are values for keys that are missing.

    `interleaved` says whether rotary positions of the indexer's heads rotate neighbouring elements.
    """
    keys = keys.with_defaults(defaults)
    keys.harmless(
        scoring_func=("sigmoid",), topk_method=("noaux_tc",), mlp_bias=(False,), rope_interleave=(True,)
    )
    keys.get(keys.spelled("num_nextn_predict_layers", "num_mtp_layers"), int, 1)
    harmless_of_training(keys)
    base = latent_decoder(keys, context=context, rope_interleave=True)
    base = _with_indexer(base, read_indexer(keys, heads=index_heads, interleaved=interleaved), keys)
    count = len(base.layers)
    stated_types(keys, TYPES)
    return with_sigmoid_experts(
        base,
        keys,
        experts=keys.size(keys.spelled("n_routed_experts", "num_local_experts", "num_experts"), 256),
        top=keys.size("num_experts_per_tok", 8),
        shared=keys.size("n_shared_experts", 1),
        sparse=_dense(keys, count),
        renormalize=keys.get("norm_topk_prob", bool, True),
    )


def read_indexer(keys: Keys, *, heads: int, interleaved: bool) -> Indexer:
    """Return the indexer that the keys state. `heads` is the family's default."""
    size, rotated = keys.size("index_head_dim", 128), keys.size("qk_rope_head_dim", 64)
    if size < rotated:
        raise keys.fail("index_head_dim", f"at least {keys.name('qk_rope_head_dim')} ({rotated})")
    return Indexer(keys.size("index_n_heads", heads), size, keys.size("index_topk", 2048), interleaved)


def _with_indexer(base: Decoder, indexer: Indexer, keys: Keys) -> Decoder:
    """Return the decoder with the given indexer in each layer."""

    def indexed(attention: TokenMixer) -> LatentAttention:
        assert isinstance(attention, LatentAttention)
        if attention.query_rank is None:
            raise keys.fail("q_lora_rank", "a number, since the indexer reads the latent of queries")
        return replace(attention, indexer=indexer)

    return map_layers(base, lambda _, layer: replace(layer, attention=indexed(layer.attention)))


def _dense(keys: Keys, count: int) -> int:
    """Return how many of the first layers have no experts. `mlp_layer_types` overrules
    `first_k_dense_replace`.
    """
    dense = min(keys.get("first_k_dense_replace", int, 3), count)
    kinds = keys.get("mlp_layer_types", list, None)
    if kinds is None:
        return dense
    dense = kinds.index("sparse") if "sparse" in kinds else count
    if kinds != ["dense"] * dense + ["sparse"] * (count - dense):
        raise keys.fail("mlp_layer_types", f"first dense and then sparse layers, {count} in all")
    return dense


INDEXER = weight_map("""
    decoder.layers.{i}.attn.{wq,wk}_index <- layers.{i}.self_attn.indexer.{wq_b,wk}.weight : transpose
    decoder.layers.{i}.attn.w_index <- layers.{i}.self_attn.indexer.weights_proj.weight : transpose
    decoder.layers.{i}.attn.index_{norm,bias} <- layers.{i}.self_attn.indexer.k_norm.{weight,bias}
""")
WEIGHTS = LATENTS + INDEXER


GGUF_WEIGHTS = GGUF_LATENTS + weight_map("""
    decoder.layers.{i}.attn.{wq,wk,w}_index <- blk.{i}.indexer.{attn_q_b,attn_k,proj}.weight : transpose
    decoder.layers.{i}.attn.index_{norm,bias} <- blk.{i}.indexer.k_norm.{weight,bias}
    left out <- blk.{n}.*
""")
KEYS = {
    **LATENT_KEYS,
    **SIGMOID_EXPERTS,
    "model_type": fixed("deepseek_v32"),
    "num_hidden_layers": Row(trunk_layers, "block_count"),
    "index_n_heads": "attention.indexer.head_count",
    "index_head_dim": "attention.indexer.key_length",
    "index_topk": "attention.indexer.top_k",
}
GGUF = Gguf("deepseek32", KEYS, GGUF_WEIGHTS)

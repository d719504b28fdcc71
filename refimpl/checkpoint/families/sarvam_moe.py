"""Sarvam 30B (Sarvam AI 2026): GLM-4.5's layers with whole heads rotated and with norms of queries and keys.

In the publisher's files, tensors and keys have other names.
"""

from dataclasses import replace
from functools import partial

from ...config import Decoder
from ..config_readers.decoder import decoder, map_attention
from ..config_readers.gguf_keys import PARTIAL, SHARED_WIDTH, SIGMOID_EXPERTS, Row, fixed, trunk_layers
from ..config_readers.gguf_weights import EXPERTS, FUSED_QKV, UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.rope import rope
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .glm4_moe import WITHOUT_MTP, with_sigmoid_experts
from .qwen3 import with_qk_norm

MODEL_TYPES = ("sarvam_moe",)
ARCHITECTURES: dict[str, Task] = decoders("Glm4Moe", tasks=()) | decoders("SarvamMoE", tasks=())
DEFAULTS = {"moe_intermediate_size": 1024, "routed_scaling_factor": 2.5}


def config(keys: Keys, task: Task) -> Decoder:
    # What the publisher's code could do otherwise, and layers that predict further tokens: left out.
    keys.harmless(score_function=("sigmoid",), moe_router_enable_expert_bias=(True,), use_bias=(False,))
    keys.harmless(num_nextn_predict_layers=(int,), num_mtp_layers=(int,))
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 4),
        context=131_072,
        attention_bias=keys.get(keys.spelled("attention_bias", "use_qkv_bias"), bool, False),
        theta=8e6,
        head=64,
        positions=partial(rope, partial=1.0),
    )
    base = map_attention(base, lambda _, attention: replace(attention, out_bias=False))
    base = with_sigmoid_experts(
        base,
        keys.with_defaults(DEFAULTS),
        experts=keys.size(keys.spelled("n_routed_experts", "num_experts", "num_local_experts"), 128),
        top=keys.size("num_experts_per_tok", 6),
        shared=keys.size(keys.spelled("n_shared_experts", "num_shared_experts"), 1),
        sparse=keys.get("first_k_dense_replace", int, 1),
        renormalize=keys.get("norm_topk_prob", bool, True),
    )
    return with_qk_norm(base) if keys.get("use_qk_norm", bool, True) else base


WEIGHTS = WITHOUT_MTP + weight_map("""
    embedding.table <- word_embeddings.weight
    decoder.layers.{i}.attn.wq, wk, wv <- layers.{i}.attention.query_key_value.weight : transpose
    decoder.layers.{i}.attn.bq, bk, bv <- layers.{i}.attention.query_key_value.bias
    decoder.layers.{i}.attn.wo <- layers.{i}.attention.dense.weight : transpose
    decoder.layers.{i}.attn.{q,k}_norm <- layers.{i}.attention.{query,key}_layernorm.weight
    decoder.layers.{i}.mlp.bias <- layers.{i}.mlp.gate.expert_bias
""")
# llama.cpp calls it Ling 2, which rotates a part of each head and is the same otherwise.
KEYS = {
    **PARTIAL,
    **SIGMOID_EXPERTS,
    "model_type": fixed("sarvam_moe"),
    "num_hidden_layers": Row(trunk_layers, "block_count"),
    **SHARED_WIDTH,
}
GGUF_WEIGHTS = UNPERMUTED_QK_WEIGHTS + FUSED_QKV + EXPERTS + weight_map("left out <- blk.{n}.*")
GGUF = Gguf("bailingmoe2", KEYS, GGUF_WEIGHTS)

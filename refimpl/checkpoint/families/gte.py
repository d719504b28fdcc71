"""GTE (Zhang et al. 2024): BERT's encoder with rotary positions and gated mlps.

The mlps' output projection has a bias. Checkpoints that use the code of Alibaba-NLP/new-impl also have keys
for that code's other settings.
"""

from ...config import Attention, Dense, Embedding, Encoder, Gated, MaskedLM, Rope
from ..config_readers.heads import head
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..config_readers.rope import exact_context, rope
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import build, layer_norm

MODEL_TYPES = ("gte",)
ARCHITECTURES = encoders("Gte", without=("answer",))
PREFIX = "gte."


def config(keys: Keys, task: Task) -> Encoder:
    context = keys.size("max_position_embeddings", 8192)
    return encoder(keys, task, rope(keys, head_size(keys), context, theta=160_000.0))


def encoder(keys: Keys, task: Task, position: Rope) -> Encoder:
    """Return GTE's encoder with the given rotary positions."""
    keys.harmless(
        layer_norm_type=("layer_norm",), position_embedding_type=("rope",), pack_qkv=(True,),
        logn_attention_scale=(False,), logn_attention_clip1=(False,),
    )  # fmt: skip
    keys.unused("unpad_inputs", "use_memory_efficient_attention")
    heads, size, norm = keys.size("num_attention_heads"), head_size(keys), layer_norm(keys)
    types = keys.get("type_vocab_size", int, 1)  # 0 is no table
    return build(
        Embedding(
            keys.size("vocab_size"),
            keys.size("hidden_size"),
            token_types=keys.size("type_vocab_size", 1) if types else None,
        ),
        Attention(heads, heads, size, position, qkv_bias=True, out_bias=True, after=norm),
        Gated(
            keys.size("intermediate_size"),
            keys.choice("hidden_act", ACTIVATIONS, "gelu"),
            after=norm,
            down_bias=True,
        ),
        head(
            keys,
            task,
            masked=MaskedLM(keys.get("tie_word_embeddings", bool, True), Dense("gelu", norm=norm)),
            classify=Dense("tanh"),
        ),
        layers=layer_count(keys),
        context=exact_context(keys.size("max_position_embeddings", 8192), position),
    )


WEIGHTS = weight_map("""
    embedding.{table,token_types} <- embeddings.{word,token_type}_embeddings.weight
    encoder.first_norm.{weight,bias} <- embeddings.LayerNorm.{weight,bias}
    encoder.layers.{i}.attn.wq, wk, wv <- encoder.layer.{i}.attention.qkv_proj.weight : transpose
    encoder.layers.{i}.attn.bq, bk, bv <- encoder.layer.{i}.attention.qkv_proj.bias
    encoder.layers.{i}.attn.wo <- encoder.layer.{i}.attention.o_proj.weight : transpose
    encoder.layers.{i}.attn.bo <- encoder.layer.{i}.attention.o_proj.bias
    encoder.layers.{i}.attn_after.{weight,bias} <- encoder.layer.{i}.attn_ln.{weight,bias}
    encoder.layers.{i}.mlp.up, gate <- encoder.layer.{i}.mlp.up_gate_proj.weight : transpose
    encoder.layers.{i}.mlp.down <- encoder.layer.{i}.mlp.down_proj.weight : transpose
    encoder.layers.{i}.mlp.bdown <- encoder.layer.{i}.mlp.down_proj.bias
    encoder.layers.{i}.mlp_after.{weight,bias} <- encoder.layer.{i}.mlp_ln.{weight,bias}
    nothing <- pooler.dense.{weight,bias}
    for MaskedLM:
    head.dense.weight <- lm_head.dense.weight : transpose
    head.dense.bias <- lm_head.dense.bias
    head.norm.{weight,bias} <- lm_head.norm.{weight,bias}
    head.{table,bias} <- lm_head.decoder.{weight,bias}
    embedding.table == lm_head.decoder.weight
    for Classify:
    head.dense.weight <- pooler.dense.weight : transpose
    head.dense.bias <- pooler.dense.bias
    for Classify, Tag:
    head.out.weight <- classifier.weight : transpose
    head.out.bias <- classifier.bias
""")

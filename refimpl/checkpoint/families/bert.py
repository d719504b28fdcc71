"""BERT (Devlin et al. 2019), including MiniLM and many sentence encoders.

Jina's BERT (Günther et al. 2023, jina-embeddings-v2) has the same model_type. Jina's BERT has no learned
positions: scores fall with the distance in both directions (ALiBi). Its mlps are gated.
"""

from dataclasses import replace
from typing import Any

from ...config import (
    Alibi,
    Attention,
    Dense,
    Embedding,
    Encoder,
    Gated,
    Layer,
    LayerNorm,
    Learned,
    MaskedLM,
    Plain,
    Pool,
    ReadingHead,
    RelativeBias,
    Stack,
)
from ..config_readers.gguf_heads import CLASSES, CLASSIFIER, labelled
from ..config_readers.gguf_keys import COMMON, EPS, Row, fixed, without
from ..config_readers.gguf_metadata import rows
from ..config_readers.heads import head
from ..config_readers.keys import ABSENT, ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, encoders

MODEL_TYPES = ("bert",)
ARCHITECTURES: dict[str, Task] = {**encoders("Bert", "JinaBert"), "BertForPreTraining": "masked"}
PREFIX = "bert."
POOLER = ("fc_size", "num_attention_heads", "num_fc_layers", "size_per_head")


def config(keys: Keys, task: Task) -> Encoder:
    # Left over from Google's own code: transformers' BERT always does this.
    keys.choice("directionality", {"bidi": None}, "bidi")
    keys.choice("pooler_type", {"first_token_transform": None}, "first_token_transform")
    keys.unused(*(f"pooler_{key}" for key in POOLER))
    width, norm = keys.size("hidden_size"), layer_norm(keys)
    dense = Dense(keys.choice("hidden_act", ACTIVATIONS, "gelu"), norm=norm)
    embedding = Embedding(
        keys.size("vocab_size"), width, token_types=keys.size("type_vocab_size", 2, null=keys.of_gguf)
    )
    context = keys.size("max_position_embeddings", 512)
    if "feed_forward_type" in keys or keys.values.get("position_embedding_type") == "alibi":
        return _jinas(keys, embedding, bert_head(keys, task, dense), task, context)
    return encoder(keys, embedding, Learned(context), bert_head(keys, task, dense))


def _jinas(keys: Keys, embedding: Embedding, head: ReadingHead, task: Task, context: int) -> Encoder:
    keys.choice("position_embedding_type", {"alibi": None})
    activation = keys.choice("feed_forward_type", {"geglu": "gelu", "reglu": "relu"})
    pooled = keys.choice("emb_pooler", {"mean": Pool("mean")}) if keys.get("emb_pooler", str, None) else head
    keys.unused("model_max_length")  # of the tokenizer
    heads, norm = keys.size("num_attention_heads"), layer_norm(keys)
    return build(
        embedding,
        Attention(heads, heads, head_size(keys), Alibi(), qkv_bias=True, out_bias=True, after=norm),
        Gated(keys.size("intermediate_size"), activation, after=norm, down_bias=True),
        pooled if task == "pool" else head,
        layers=layer_count(keys),
        context=context,
    )


def bert_head(keys: Keys, task: Task, dense: Dense) -> ReadingHead:
    """Return BERT's head for a task.

    `dense` is the dense layer of the head for masked tokens. The heads for labels and vectors use a tanh
    after a dense layer."""
    masked = MaskedLM(keys.get("tie_word_embeddings", bool, True), dense)
    return head(keys, task, masked=masked, classify=Dense("tanh"), pooler=Dense("tanh"))


def layer_norm(keys: Keys) -> LayerNorm:
    return LayerNorm(keys.positive("layer_norm_eps", 1e-12))


def encoder(
    keys: Keys,
    embedding: Embedding,
    positions: Learned,
    head: ReadingHead,
    *,
    position: RelativeBias | None = None,
    activation: str = "gelu",
) -> Encoder:
    """Return the encoder of BERT or of a similar model. `activation` is the family's default activation."""
    keys.choice("position_embedding_type", {"absolute": None}, "absolute")
    heads, size, norm = keys.size("num_attention_heads"), head_size(keys), layer_norm(keys)
    kind = keys.choice("hidden_act", ACTIVATIONS, activation)
    return build(
        embedding,
        Attention(heads, heads, size, position, qkv_bias=True, out_bias=True, after=norm),
        Plain(keys.size("intermediate_size"), kind, after=norm),
        head,
        layers=layer_count(keys),
        context=positions.size,
        positions=positions,
    )


def build(
    embedding: Embedding,
    attention: Attention,
    mlp: Plain | Gated,
    head: ReadingHead,
    *,
    layers: int,
    context: int,
    positions: Learned | None = None,
) -> Encoder:
    """Return an encoder of equal layers, with a norm after the embeddings and a norm after each sublayer."""
    stack = Stack((Layer(attention, mlp),) * layers, None, positions, mlp.after)
    return Encoder(embedding, stack, head, context)


TRUNK = weight_map("""
    embedding.{table,token_types} <- embeddings.{word,token_type}_embeddings.weight
    encoder.positions <- embeddings.position_embeddings.weight
    encoder.first_norm.{weight,bias} <- embeddings.LayerNorm.{(weight|gamma),(bias|beta)}
    encoder.layers.{i}.attn.{wq,wk} <- encoder.layer.{i}.attention.self.{query,key}.weight : transpose
    encoder.layers.{i}.attn.wv <- encoder.layer.{i}.attention.self.value.weight : transpose
    encoder.layers.{i}.attn.wo <- encoder.layer.{i}.attention.output.dense.weight : transpose
    encoder.layers.{i}.attn.{bq,bk,bv} <- encoder.layer.{i}.attention.self.{query,key,value}.bias
    encoder.layers.{i}.attn.bo <- encoder.layer.{i}.attention.output.dense.bias
    encoder.layers.{i}.attn_after.weight <- encoder.layer.{i}.attention.output.LayerNorm.(weight|gamma)
    encoder.layers.{i}.attn_after.bias <- encoder.layer.{i}.attention.output.LayerNorm.(bias|beta)
    encoder.layers.{i}.mlp.{up,down} <- encoder.layer.{i}.{intermediate,output}.dense.weight : transpose
    encoder.layers.{i}.mlp.{bup,bdown} <- encoder.layer.{i}.{intermediate,output}.dense.bias
    encoder.layers.{i}.mlp_after.weight <- encoder.layer.{i}.output.LayerNorm.(weight|gamma)
    encoder.layers.{i}.mlp_after.bias <- encoder.layer.{i}.output.LayerNorm.(bias|beta)
    position_ids == embeddings.position_ids
""")
# Jina's mlps; what else it has is named as BERT's.
GATED = weight_map("""
    encoder.layers.{i}.mlp.gate, up <- encoder.layer.{i}.mlp.gated_layers.weight : transpose
    encoder.layers.{i}.mlp.down <- encoder.layer.{i}.mlp.wo.weight : transpose
    encoder.layers.{i}.mlp.bdown <- encoder.layer.{i}.mlp.wo.bias
    encoder.layers.{i}.mlp_after.{weight,bias} <- encoder.layer.{i}.mlp.layernorm.{weight,bias}
""")
PREDICTIONS = weight_map("""
    for MaskedLM:
    head.dense.weight <- cls.predictions.transform.dense.weight : transpose
    head.dense.bias <- cls.predictions.transform.dense.bias
    head.norm.{weight,bias} <- cls.predictions.transform.LayerNorm.{(weight|gamma),(bias|beta)}
    head.table <- cls.predictions.decoder.weight
    embedding.table == cls.predictions.decoder.weight
    head.bias <- cls.predictions.(decoder.bias|bias)
    head.bias == cls.predictions.bias
""")
OUTPUTS = weight_map("""
    for Classify, Tag:
    head.out.weight <- classifier.weight : transpose
    head.out.bias <- classifier.bias
    for QuestionAnswering:
    head.out.weight <- qa_outputs.weight : transpose
    head.out.bias <- qa_outputs.bias
""")
HEADS = (
    PREDICTIONS
    + weight_map("""
    nothing <- pooler.dense.{weight,bias}
    nothing <- cls.seq_relationship.{weight,bias}
    for Pool, Classify:
    head.dense.weight <- pooler.dense.weight : transpose
    head.dense.bias <- pooler.dense.bias
""")
    + OUTPUTS
)
WEIGHTS = GATED + TRUNK + HEADS
TYPES = "token_types.weight"


GGUF_WEIGHTS = (
    weight_map("""
    embedding.table <- token_embd.weight
    embedding.token_types <- token_types.weight : table
    encoder.positions <- position_embd.weight
    encoder.first_norm.{weight,bias} <- token_embd_norm.{weight,bias}
    encoder.layers.{i}.attn.{wq,wk,wv,wo} <- blk.{i}.attn_{q,k,v,output}.weight : transpose
    encoder.layers.{i}.attn.{bq,bk,bv,bo} <- blk.{i}.attn_{q,k,v,output}.bias
    encoder.layers.{i}.attn_after.{weight,bias} <- blk.{i}.attn_output_norm.{weight,bias}
    encoder.layers.{i}.mlp.{up,down} <- blk.{i}.ffn_{up,down}.weight : transpose
    encoder.layers.{i}.mlp.{bup,bdown} <- blk.{i}.ffn_{up,down}.bias
    encoder.layers.{i}.mlp_after.{weight,bias} <- blk.{i}.layer_output_norm.{weight,bias}
""")
    + CLASSIFIER
)
# Older converters split gate and up, newer ones leave them in one tensor.
JINAS_WEIGHTS = (
    weight_map("""
    encoder.layers.{i}.mlp.gate <- blk.{i}.ffn_gate.weight : transpose
    encoder.layers.{i}.mlp.gate, up <- blk.{i}.ffn_up.weight : transpose
""")
    + GGUF_WEIGHTS
)


def _whole_head(keys: Keys, source: TensorSource) -> Any:
    """Check that a file contains all tensors of a classifier, not only some."""
    lacks = [name for name in (TYPES, "cls.weight") if name not in source.names]
    if labelled(keys, source) and lacks:
        must = f"1, 2 or 3, because a classifier needs tensor {lacks[0]!r}: use the original checkpoint"
        raise keys.fail("pooling_type", must)
    return ABSENT


# Encoders of BERT's form, with vectors alone.
KEYS = {
    **without(COMMON, "tie_word_embeddings"),
    "model_type": fixed("bert"),
    "intermediate_size": "feed_forward_length",
    "layer_norm_eps": EPS,
    "type_vocab_size": Row(lambda _, source: rows(source, TYPES) if TYPES in source.names else None),
    "num_labels": CLASSES["num_labels"],
}
# BERT, DistilBERT or RoBERTa, whose rows of positions before the first the converter drops.
ENCODER = Gguf("bert", {**KEYS, **CLASSES, "pooling_type": Row(_whole_head)}, GGUF_WEIGHTS, task="pool")
# llama.cpp knows the slopes without a key.
JINA = {**KEYS, "position_embedding_type": fixed("alibi"), "feed_forward_type": fixed("geglu")}
GGUF = replace(ENCODER, other=Gguf("jina-bert-v2", JINA, JINAS_WEIGHTS, task="pool"))

"""BERT's encoder (Devlin et al. 2019), as MiniLM and many sentence encoders have it."""

from __future__ import annotations

from ..config import (
    Attention,
    Config,
    Dense,
    Embedding,
    Head,
    Layer,
    LayerNorm,
    Learned,
    MaskedLM,
    Plain,
    Stack,
)
from ..head_keys import head
from ..keys import ACTIVATIONS, Keys
from . import Task

MODEL_TYPES = ("bert",)
ARCHITECTURES: dict[str, Task] = {
    "BertModel": "pool",
    "BertForMaskedLM": "masked",
    "BertForPreTraining": "masked",
    "BertForSequenceClassification": "classify",
    "BertForTokenClassification": "tag",
    "BertForQuestionAnswering": "answer",
}
PREFIX = "bert."
GGUF = None


def config(keys: Keys, task: Task) -> Config:
    # Left over from Google's own code: what transformers' BERT does anyway.
    keys.choice("directionality", {"bidi": None}, "bidi")
    keys.choice("pooler_type", {"first_token_transform": None}, "first_token_transform")
    for key in (
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
    ):
        keys.get(key, int, None)
    width, norm = keys.size("hidden_size"), layer_norm(keys)
    dense = Dense(keys.choice("hidden_act", ACTIVATIONS, "gelu"), norm=norm)
    masked = MaskedLM(keys.get("tie_word_embeddings", bool, True), dense)
    return encoder(
        keys,
        Embedding(keys.size("vocab_size"), width, types=keys.size("type_vocab_size", 2)),
        Learned(keys.size("max_position_embeddings", 512)),
        head(keys, task, masked=masked, classify=Dense("tanh"), pooler=Dense("tanh")),
    )


def layer_norm(keys: Keys) -> LayerNorm:
    return LayerNorm(keys.positive("layer_norm_eps", 1e-12))


def encoder(keys: Keys, embedding: Embedding, positions: Learned, head: Head) -> Config:
    """The encoder of BERT, RoBERTa and ELECTRA."""
    keys.choice("position_embedding_type", {"absolute": None}, "absolute")
    keys.unused("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
    keys.unused("gradient_checkpointing")
    heads = keys.size("num_attention_heads")
    if embedding.width % heads:
        raise keys.fail("hidden_size", f"a multiple of num_attention_heads, {heads!r:.40}")
    norm, size = layer_norm(keys), embedding.width // heads
    layer = Layer(
        Attention(heads, heads, size, qkv_bias=True, out_bias=True, after=norm),
        Plain(keys.size("intermediate_size"), keys.choice("hidden_act", ACTIVATIONS, "gelu"), after=norm),
    )
    layers = (layer,) * min(keys.size("num_hidden_layers"), 2**16)
    return Config(
        embedding=embedding,
        decoder=None,
        head=head,
        context=positions.size,
        encoder=Stack(layers, None, positions, norm),
    )


TRUNK = """
    embedding.table <- embeddings.word_embeddings.weight
    embedding.types <- embeddings.token_type_embeddings.weight
    encoder.positions <- embeddings.position_embeddings.weight
    encoder.first_norm.weight <- embeddings.LayerNorm.(weight|gamma)
    encoder.first_norm.bias <- embeddings.LayerNorm.(bias|beta)
    encoder.layers.{i}.attn.wq <- encoder.layer.{i}.attention.self.query.weight : transpose
    encoder.layers.{i}.attn.wk <- encoder.layer.{i}.attention.self.key.weight : transpose
    encoder.layers.{i}.attn.wv <- encoder.layer.{i}.attention.self.value.weight : transpose
    encoder.layers.{i}.attn.wo <- encoder.layer.{i}.attention.output.dense.weight : transpose
    encoder.layers.{i}.attn.bq <- encoder.layer.{i}.attention.self.query.bias
    encoder.layers.{i}.attn.bk <- encoder.layer.{i}.attention.self.key.bias
    encoder.layers.{i}.attn.bv <- encoder.layer.{i}.attention.self.value.bias
    encoder.layers.{i}.attn.bo <- encoder.layer.{i}.attention.output.dense.bias
    encoder.layers.{i}.attn_after.weight <- encoder.layer.{i}.attention.output.LayerNorm.(weight|gamma)
    encoder.layers.{i}.attn_after.bias <- encoder.layer.{i}.attention.output.LayerNorm.(bias|beta)
    encoder.layers.{i}.mlp.up <- encoder.layer.{i}.intermediate.dense.weight : transpose
    encoder.layers.{i}.mlp.down <- encoder.layer.{i}.output.dense.weight : transpose
    encoder.layers.{i}.mlp.bup <- encoder.layer.{i}.intermediate.dense.bias
    encoder.layers.{i}.mlp.bdown <- encoder.layer.{i}.output.dense.bias
    encoder.layers.{i}.mlp_after.weight <- encoder.layer.{i}.output.LayerNorm.(weight|gamma)
    encoder.layers.{i}.mlp_after.bias <- encoder.layer.{i}.output.LayerNorm.(bias|beta)
    position_ids == embeddings.position_ids
"""
WEIGHTS = f"""
    {TRUNK}
    nothing <- pooler.dense.weight
    nothing <- pooler.dense.bias
    for Pool, Classify:
    head.dense.weight <- pooler.dense.weight : transpose
    head.dense.bias <- pooler.dense.bias
    for MaskedLM:
    head.dense.weight <- cls.predictions.transform.dense.weight : transpose
    head.dense.bias <- cls.predictions.transform.dense.bias
    head.norm.weight <- cls.predictions.transform.LayerNorm.(weight|gamma)
    head.norm.bias <- cls.predictions.transform.LayerNorm.(bias|beta)
    head.table <- cls.predictions.decoder.weight
    embedding.table == cls.predictions.decoder.weight
    head.bias <- cls.predictions.(decoder.bias|bias)
    nothing <- cls.predictions.bias
    nothing <- cls.seq_relationship.weight
    nothing <- cls.seq_relationship.bias
    for Classify, Tag:
    head.out.weight <- classifier.weight : transpose
    head.out.bias <- classifier.bias
    for Answer:
    head.out.weight <- qa_outputs.weight : transpose
    head.out.bias <- qa_outputs.bias
"""

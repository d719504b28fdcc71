"""BERT's encoder (Devlin et al. 2019), as MiniLM and many sentence encoders have it.

The head is BERT's own pooler. What a sentence-transformers directory says beside config.json, as a
mean over the tokens, is no part of BERT and isn't read here.
"""

from __future__ import annotations

from ..config import Attention, Config, Dense, Embedding, Layer, LayerNorm, Learned, Plain, Pool, Stack
from ..keys import ACTIVATIONS, Keys
from . import Task

MODEL_TYPES = ("bert",)
ARCHITECTURES: dict[str, Task] = {"BertModel": "pool"}
PREFIX = "bert."
GGUF = None


def config(keys: Keys, task: Task) -> Config:
    if keys.get("is_decoder", bool, False):
        raise keys.fail("is_decoder", "false: tokens then see no later ones")
    keys.choice("position_embedding_type", {"absolute": None}, "absolute")
    # Of training, or of heads that BertModel hasn't.
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        keys.get(key, float, None)
    for key in ("gradient_checkpointing", "tie_word_embeddings"):
        keys.get(key, bool, False)
    width, heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    if width % heads:
        raise keys.fail("hidden_size", f"a multiple of num_attention_heads, {heads!r:.40}")
    norm = LayerNorm(keys.positive("layer_norm_eps", 1e-12))
    context = keys.size("max_position_embeddings", 512)
    layer = Layer(
        Attention(heads, heads, width // heads, qkv_bias=True, out_bias=True, after=norm),
        Plain(keys.size("intermediate_size"), keys.choice("hidden_act", ACTIVATIONS, "gelu"), after=norm),
    )
    layers = (layer,) * min(keys.size("num_hidden_layers"), 2**16)
    return Config(
        embedding=Embedding(keys.size("vocab_size"), width, types=keys.size("type_vocab_size", 2)),
        decoder=None,
        head=Pool("first", Dense("tanh")),
        context=context,
        encoder=Stack(layers, None, Learned(context), norm),
    )


WEIGHTS = """
    embedding.table <- embeddings.word_embeddings.weight
    embedding.types <- embeddings.token_type_embeddings.weight
    encoder.positions <- embeddings.position_embeddings.weight
    encoder.first_norm.weight <- embeddings.LayerNorm.weight
    encoder.first_norm.bias <- embeddings.LayerNorm.bias
    encoder.layers.{i}.attn.wq <- encoder.layer.{i}.attention.self.query.weight : transpose
    encoder.layers.{i}.attn.wk <- encoder.layer.{i}.attention.self.key.weight : transpose
    encoder.layers.{i}.attn.wv <- encoder.layer.{i}.attention.self.value.weight : transpose
    encoder.layers.{i}.attn.wo <- encoder.layer.{i}.attention.output.dense.weight : transpose
    encoder.layers.{i}.attn.bq <- encoder.layer.{i}.attention.self.query.bias
    encoder.layers.{i}.attn.bk <- encoder.layer.{i}.attention.self.key.bias
    encoder.layers.{i}.attn.bv <- encoder.layer.{i}.attention.self.value.bias
    encoder.layers.{i}.attn.bo <- encoder.layer.{i}.attention.output.dense.bias
    encoder.layers.{i}.attn_after.weight <- encoder.layer.{i}.attention.output.LayerNorm.weight
    encoder.layers.{i}.attn_after.bias <- encoder.layer.{i}.attention.output.LayerNorm.bias
    encoder.layers.{i}.mlp.up <- encoder.layer.{i}.intermediate.dense.weight : transpose
    encoder.layers.{i}.mlp.down <- encoder.layer.{i}.output.dense.weight : transpose
    encoder.layers.{i}.mlp.bup <- encoder.layer.{i}.intermediate.dense.bias
    encoder.layers.{i}.mlp.bdown <- encoder.layer.{i}.output.dense.bias
    encoder.layers.{i}.mlp_after.weight <- encoder.layer.{i}.output.LayerNorm.weight
    encoder.layers.{i}.mlp_after.bias <- encoder.layer.{i}.output.LayerNorm.bias
    head.dense.weight <- pooler.dense.weight : transpose
    head.dense.bias <- pooler.dense.bias
    position_ids == embeddings.position_ids
"""

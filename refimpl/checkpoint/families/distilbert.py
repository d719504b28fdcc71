"""DistilBERT (Sanh et al. 2019): BERT's encoder without token types, and with other heads.

The checkpoint stores sinusoidal positions as a table, and tfm uses this table.
"""

from ...config import Attention, Dense, Embedding, Encoder, Layer, LayerNorm, Learned, MaskedLM, Plain, Stack
from ..config_readers.heads import head
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import ENCODER, OUTPUTS

MODEL_TYPES = ("distilbert",)
ARCHITECTURES = encoders("DistilBert")
PREFIX = "distilbert."
GGUF = ENCODER


def config(keys: Keys, task: Task) -> Encoder:
    keys.unused("dropout", "qa_dropout", "seq_classif_dropout", "tie_weights_")
    keys.unused("sinusoidal_pos_embds")
    heads, size = keys.size("n_heads"), head_size(keys, "dim", "n_heads")
    norm, context = LayerNorm(1e-12), keys.size("max_position_embeddings", 512)
    activation = keys.choice("activation", ACTIVATIONS, "gelu")
    layer = Layer(
        Attention(heads, heads, size, qkv_bias=True, out_bias=True, after=norm),
        Plain(keys.size("hidden_dim"), activation, after=norm),
    )
    masked = MaskedLM(keys.get("tie_word_embeddings", bool, True), Dense(activation, norm=norm))
    return Encoder(
        embedding=Embedding(keys.size("vocab_size"), keys.size("dim")),
        stack=Stack((layer,) * layer_count(keys, "n_layers"), None, Learned(context), norm),
        head=head(keys, task, masked=masked, classify=Dense("relu")),
        context=context,
    )


WEIGHTS = (
    weight_map("""
    embedding.table <- embeddings.word_embeddings.weight
    encoder.positions <- embeddings.position_embeddings.weight
    encoder.first_norm.{weight,bias} <- embeddings.LayerNorm.{weight,bias}
    encoder.layers.{i}.attn.{wq,wk,wv} <- transformer.layer.{i}.attention.{q,k,v}_lin.weight : transpose
    encoder.layers.{i}.attn.wo <- transformer.layer.{i}.attention.out_lin.weight : transpose
    encoder.layers.{i}.attn.{bq,bk,bv,bo} <- transformer.layer.{i}.attention.{q,k,v,out}_lin.bias
    encoder.layers.{i}.attn_after.{weight,bias} <- transformer.layer.{i}.sa_layer_norm.{weight,bias}
    encoder.layers.{i}.mlp.{up,down} <- transformer.layer.{i}.ffn.{lin1,lin2}.weight : transpose
    encoder.layers.{i}.mlp.{bup,bdown} <- transformer.layer.{i}.ffn.{lin1,lin2}.bias
    encoder.layers.{i}.mlp_after.{weight,bias} <- transformer.layer.{i}.output_layer_norm.{weight,bias}
    position_ids == embeddings.position_ids
    for MaskedLM:
    head.dense.weight <- vocab_transform.weight : transpose
    head.dense.bias <- vocab_transform.bias
    head.norm.{weight,bias} <- vocab_layer_norm.{weight,bias}
    head.{table,bias} <- vocab_projector.{weight,bias}
    embedding.table == vocab_projector.weight
    for Classify:
    head.dense.weight <- pre_classifier.weight : transpose
    head.dense.bias <- pre_classifier.bias
""")
    + OUTPUTS
)

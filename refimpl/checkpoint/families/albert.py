"""ALBERT (Lan et al. 2020): BERT's encoder with narrower embeddings. All layers share their weights.

A bundle stores the shared weights once for each layer. tfm refuses several groups of layers and several
layers in a group; no published checkpoint has them.
"""

from ...config import Dense, Embedding, EmbeddingProjection, Encoder, Learned
from ..config_readers.keys import ACTIVATIONS, Keys
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import OUTPUTS, bert_head, encoder, layer_norm

MODEL_TYPES = ("albert",)
ARCHITECTURES: dict[str, Task] = {**encoders("Albert"), "AlbertForPreTraining": "masked"}
PREFIX = "albert."


def config(keys: Keys, task: Task) -> Encoder:
    # Of training; and what the original's configs say of options that it doesn't use.
    keys.unused("classifier_dropout_prob")
    keys.harmless(
        num_hidden_groups=(1,), inner_group_num=(1,), down_scale_factor=(1,), gap_size=(0,),
        net_structure_type=(0,), num_memory_blocks=(0,), layers_to_keep=([],),
    )  # fmt: skip
    tables = keys.size("embedding_size", 128)
    activation = keys.choice("hidden_act", ACTIVATIONS, "gelu_new")
    masked = Dense(activation, norm=layer_norm(keys), width=tables)
    return encoder(
        keys,
        Embedding(
            keys.size("vocab_size"),
            keys.size("hidden_size"),
            token_types=keys.size("type_vocab_size", 2),
            projection=EmbeddingProjection(tables, bias=True, late=True),
        ),
        Learned(keys.size("max_position_embeddings", 512)),
        bert_head(keys, task, masked),
        activation="gelu_new",
    )


WEIGHTS = (
    weight_map("""
    embedding.{table,token_types} <- embeddings.{word,token_type}_embeddings.weight
    embedding.project <- encoder.embedding_hidden_mapping_in.weight : transpose
    embedding.project_bias <- encoder.embedding_hidden_mapping_in.bias
    encoder.positions <- embeddings.position_embeddings.weight
    encoder.first_norm.{weight,bias} <- embeddings.LayerNorm.{(weight|gamma),(bias|beta)}
    encoder.layers.{i}.attn.{wq,wk,wv,wo} <- LAYER.attention.{query,key,value,dense}.weight : transpose
    encoder.layers.{i}.attn.{bq,bk,bv,bo} <- LAYER.attention.{query,key,value,dense}.bias
    encoder.layers.{i}.attn_after.{weight,bias} <- LAYER.attention.LayerNorm.{weight,bias}
    encoder.layers.{i}.mlp.{up,down} <- LAYER.{ffn,ffn_output}.weight : transpose
    encoder.layers.{i}.mlp.{bup,bdown} <- LAYER.{ffn,ffn_output}.bias
    encoder.layers.{i}.mlp_after.{weight,bias} <- LAYER.full_layer_layer_norm.{weight,bias}
    position_ids == embeddings.position_ids
    nothing <- pooler.{weight,bias}
    nothing <- sop_classifier.classifier.{weight,bias}
    for Pool, Classify:
    head.dense.weight <- pooler.weight : transpose
    head.dense.bias <- pooler.bias
    for MaskedLM:
    head.dense.weight <- predictions.dense.weight : transpose
    head.dense.bias <- predictions.dense.bias
    head.norm.{weight,bias} <- predictions.LayerNorm.{weight,bias}
    head.table <- predictions.decoder.weight
    embedding.table == predictions.decoder.weight
    head.bias <- predictions.(decoder.bias|bias)
    head.bias == predictions.bias
""").renamed({"LAYER": "encoder.albert_layer_groups.0.albert_layers.0"})
    + OUTPUTS
)

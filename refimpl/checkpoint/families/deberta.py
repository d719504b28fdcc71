"""DeBERTa (He et al. 2021): BERT's encoder with disentangled attention. Distances have keys and queries too.

The paper's enhanced mask decoder adds absolute positions before the last layers. No head of transformers has
this decoder (`z_steps` is 0 there), so tfm doesn't have it either. There are two heads for masked tokens,
`cls` and the original `lm_predictions`. tfm reads the head that the file contains. If `legacy` names the
missing head, transformers fills it with random weights.
"""

from ...config import (
    Attention,
    Dense,
    Distances,
    Embedding,
    Encoder,
    Layer,
    LayerNorm,
    Learned,
    MaskedLM,
    NeighbourConv,
    Plain,
    ReadingHead,
    Stack,
)
from ...ops.disentangled import DisentangledAttention
from ..config_readers.heads import head
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import OUTPUTS, PREDICTIONS, TRUNK

MODEL_TYPES = ("deberta",)
ARCHITECTURES = encoders("Deberta")
PREFIX = "deberta."
TERMS = ("c2p", "p2c")


def config(keys: Keys, task: Task) -> Encoder:
    keys.harmless(talking_head=(False,))
    return encoder(keys, task, Distances(max_distance(keys)), position_bias=False)


def _terms(keys: Keys) -> tuple[str, ...]:
    """Return the terms of attention with positions. Configs state them as a list, or as a text with strokes
    between.
    """
    stated = keys.values.get("pos_att_type")
    if isinstance(stated, str):
        keys.unused("pos_att_type")
        terms = [term.strip() for term in stated.lower().split("|")]
    else:
        terms = keys.get("pos_att_type", list, None) or []
    if len(set(map(str, terms))) < len(terms) or not {*map(str, terms)} <= {*TERMS}:
        raise keys.fail("pos_att_type", f"one or both of {', '.join(TERMS)}, each at most once")
    return tuple(terms)


def max_distance(keys: Keys) -> int:
    """Return the distance from which on all distances share one vector. The default is the context."""
    stated = keys.get("max_relative_positions", int, -1)
    return keys.size("max_position_embeddings", 512) if stated < 1 else keys.size("max_relative_positions")


def encoder(
    keys: Keys,
    task: Task,
    distances: Distances,
    *,
    shared: bool = False,
    position_bias: bool = True,
    conv: NeighbourConv | None = None,
) -> Encoder:
    """Return the encoder of any version of DeBERTa. `conv` is a convolution beside its first layer.

    Without `relative_attention`, the terms that `pos_att_type` names still count for the scale of scores.
    """
    width, context = keys.size("hidden_size"), keys.size("max_position_embeddings", 512)
    keys.restated(
        "embedding_size",
        width,
        f"the same as hidden_size ({width}): tfm doesn't read a map between two widths",
    )
    heads, size, norm = keys.size("num_attention_heads"), head_size(keys), layer_norm(keys)
    kind = keys.choice("hidden_act", ACTIVATIONS, "gelu")
    types = keys.get("type_vocab_size", int, 0)
    terms = _terms(keys)
    if keys.get("relative_attention", bool, False) and terms:
        attention = DisentangledAttention(
            heads,
            size,
            distances,
            "c2p" in terms,
            "p2c" in terms,
            shared,
            position_bias=position_bias,
            after=norm,
        )
    else:
        scale = (size * (1 + len(terms))) ** -0.5
        attention = Attention(heads, heads, size, qkv_bias=True, out_bias=True, scale=scale, after=norm)
    layer = Layer(attention, Plain(keys.size("intermediate_size"), kind, after=norm))
    first = Layer(layer.attention, layer.mlp, conv=conv)
    positions = Learned(context) if keys.get("position_biased_input", bool, True) else None
    stack = Stack((first, *(layer,) * (layer_count(keys) - 1)), None, positions, norm)
    embedding = Embedding(keys.size("vocab_size"), width, token_types=types if types > 0 else None)
    return Encoder(embedding, stack, _head(keys, task, Dense(kind, norm=norm), width), context)


def layer_norm(keys: Keys) -> LayerNorm:
    return LayerNorm(keys.positive("layer_norm_eps", 1e-7))


def _head(keys: Keys, task: Task, dense: Dense, width: int) -> ReadingHead:
    """Return the head for a task. A pooler comes before the labels of a text, but not before vectors."""
    keys.harmless(z_steps=(0,))
    keys.unused("pooler_dropout", "cls_dropout", "padding_idx")
    keys.restated("pooler_hidden_size", width, f"the same as hidden_size ({width})")
    pooler = Dense(keys.choice("pooler_hidden_act", ACTIVATIONS, "gelu"))
    legacy = keys.get("legacy", bool, True)
    tied = keys.get("tie_word_embeddings", bool, True) or not legacy
    return head(keys, task, masked=MaskedLM(tied, dense), classify=pooler)


HEADS = (
    weight_map("""
    nothing <- embeddings.position_embeddings.weight
    nothing <- pooler.dense.{weight,bias}
    nothing <- encoder.{rel_embeddings,LayerNorm}.weight
    nothing <- {encoder,mask_predictions}.LayerNorm.bias
    nothing <- mask_predictions.{dense,LayerNorm,classifier}.weight
    nothing <- mask_predictions.{dense,classifier}.bias
""")
    + PREDICTIONS
    + weight_map("""
    for MaskedLM:
    head.dense.weight <- lm_predictions.lm_head.dense.weight : transpose
    head.dense.bias <- lm_predictions.lm_head.dense.bias
    head.norm.{weight,bias} <- lm_predictions.lm_head.LayerNorm.{weight,bias}
    head.bias <- lm_predictions.lm_head.bias
    for Classify:
    head.dense.weight <- pooler.dense.weight : transpose
    head.dense.bias <- pooler.dense.bias
""")
    + OUTPUTS
)
WEIGHTS = (
    weight_map("""
    encoder.layers.{i}.attn.wq, wk, wv <- encoder.layer.{i}.attention.self.in_proj.weight : transpose grouped
    encoder.layers.{i}.attn.bq, bk <- encoder.layer.{i}.attention.self.q_bias : zeros_after
    encoder.layers.{i}.attn.bv <- encoder.layer.{i}.attention.self.v_bias
    encoder.layers.{i}.attn.wk_pos <- encoder.layer.{i}.attention.self.pos_proj.weight : transpose
    encoder.layers.{i}.attn.wq_pos <- encoder.layer.{i}.attention.self.pos_q_proj.weight : transpose
    encoder.layers.{i}.attn.bq_pos <- encoder.layer.{i}.attention.self.pos_q_proj.bias
    encoder.distances <- encoder.rel_embeddings.weight
""")
    + TRUNK
    + HEADS
)

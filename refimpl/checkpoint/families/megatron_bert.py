"""Megatron's BERT (Shoeybi et al. 2019): BERT with norms before the sublayers, and a norm after the last
layer."""

from dataclasses import replace

from ...config import Dense, Embedding, Encoder, Learned, Norm
from ..config_readers.keys import ACTIVATIONS, Keys
from ..weights.weight_map import weight_map
from . import Task, encoders
from .bert import HEADS, TRUNK, bert_head, encoder, layer_norm

MODEL_TYPES = ("megatron-bert",)
ARCHITECTURES: dict[str, Task] = {**encoders("MegatronBert"), "MegatronBertForPreTraining": "masked"}
PREFIX = "bert."


def config(keys: Keys, task: Task) -> Encoder:
    masked = Dense(keys.choice("hidden_act", ACTIVATIONS, "gelu"), norm=layer_norm(keys))
    base = encoder(
        keys,
        Embedding(
            keys.size("vocab_size"), keys.size("hidden_size"), token_types=keys.size("type_vocab_size", 2)
        ),
        Learned(keys.size("max_position_embeddings", 512)),
        bert_head(keys, task, masked),
    )
    return norms_before(base)


def norms_before(base: Encoder, first: Norm | None = None) -> Encoder:
    """Return the encoder with norms before the sublayers and a norm after the last layer.

    `first` is the norm after the embeddings."""
    layers = tuple(
        replace(
            layer,
            attention=replace(layer.attention, pre=layer.attention.after, after=None),
            mlp=replace(layer.mlp, pre=layer.mlp.after, after=None),
        )
        for layer in base.stack.layers
    )
    norm = base.stack.first_norm
    return replace(base, stack=replace(base.stack, layers=layers, first_norm=first, final_norm=norm))


WEIGHTS = (
    TRUNK
    + HEADS
    + weight_map("""
    encoder.layers.{i}.attn_pre.{weight,bias} <- encoder.layer.{i}.attention.ln.{weight,bias}
    encoder.layers.{i}.mlp_pre.{weight,bias} <- encoder.layer.{i}.ln.{weight,bias}
    encoder.norm.{weight,bias} <- encoder.ln.{weight,bias}
""")
)

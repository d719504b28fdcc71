"""Nemotron 4 and Minitron (Parmar et al. 2024): LayerNorm with weights stored minus one, and an mlp without a
gate.

The mlp's activation is a squared ReLU. Half of each head is rotated."""

from ...config import Attention, Decoder, LayerNorm, Plain
from ..config_readers.decoder import build
from ..config_readers.gguf_keys import EPS, PARTIAL, agreeing, fixed, without
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..config_readers.rope import exact_context, rope
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .gemma import add_one_to_norms
from .llama import WEIGHTS as LLAMA
from .stablelm import GGUF_WEIGHTS

MODEL_TYPES = ("nemotron",)
ARCHITECTURES: dict[str, Task] = decoders("Nemotron")


def config(keys: Keys, task: Task) -> Decoder:
    heads, size = keys.size("num_attention_heads"), keys.size("head_dim", None) or head_size(keys)
    keys.harmless(kv_channels=(size, None))  # the same by its trainer's name
    context = keys.size("max_position_embeddings", 4096)
    position, bias = rope(keys, size, context, partial=0.5), keys.get("attention_bias", bool, False)
    norm = LayerNorm(keys.positive("norm_eps", 1e-5))
    return build(
        vocabulary=keys.size("vocab_size"),
        width=keys.size("hidden_size"),
        layers=layer_count(keys),
        attention=Attention(
            heads,
            keys.size("num_key_value_heads", None) or heads,
            size,
            position,
            qkv_bias=keys.shows("attn_q.bias", stated=bias),
            out_bias=keys.shows("attn_output.bias", stated=bias),
            pre=norm,
        ),
        mlp=Plain(
            keys.size("intermediate_size"),
            keys.choice("hidden_act", ACTIVATIONS, "relu2"),
            bias=keys.shows("ffn_up.bias", stated=keys.get("mlp_bias", bool, False)),
            pre=norm,
        ),
        tied=keys.get("tie_word_embeddings", bool, False),
        context=exact_context(context, position),
    )


WEIGHTS = add_one_to_norms(LLAMA) + weight_map("""
    decoder.layers.{i}.{attn,mlp}_pre.bias <- layers.{i}.{input,post_attention}_layernorm.bias
    decoder.norm.bias <- norm.bias
""")


KEYS = {
    **without(PARTIAL, "rms_norm_eps"),
    "model_type": fixed("nemotron"),
    "norm_eps": agreeing(EPS, "attention.layer_norm_rms_epsilon"),
}
GGUF = Gguf("nemotron", KEYS, GGUF_WEIGHTS)

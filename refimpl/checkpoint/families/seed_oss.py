"""Seed-OSS (ByteDance 2025): Llama's decoder with biases of queries, keys and values."""

from dataclasses import replace

from ...config import Decoder
from ..config_readers.decoder import decoder, map_attention
from ..config_readers.gguf_keys import DECODER, fixed
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import WEIGHTS as WEIGHTS

MODEL_TYPES = ("seed_oss",)
ARCHITECTURES: dict[str, Task] = decoders("SeedOss")


def config(keys: Keys, task: Task) -> Decoder:
    keys.get("residual_dropout", float, None)  # of training
    # Several slices of one product, summed: the same mathematics.
    keys.get("pretraining_tp", int, 1, null=True)
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8, null=True),
        context=524_288,
        attention_bias=keys.get("attention_bias", bool, True),
        mlp_bias=keys.get("mlp_bias", bool, False),
        head=keys.size("head_dim", 128, null=True),
    )
    out_bias = keys.shows("attn_output.bias", stated=keys.get("attention_out_bias", bool, False))
    return map_attention(base, lambda _, attention: replace(attention, out_bias=out_bias))


# The norm before the mlp has the name that it has on the hub.
GGUF_WEIGHTS = UNPERMUTED_QK_WEIGHTS.without("decoder.layers.{i}.mlp_pre.weight") + weight_map("""
    decoder.layers.{i}.mlp_pre.weight <- blk.{i}.post_attention_norm.weight
""")
GGUF = Gguf("seed_oss", {**DECODER, "model_type": fixed("seed_oss")}, GGUF_WEIGHTS)

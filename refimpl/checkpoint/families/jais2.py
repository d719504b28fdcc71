"""Jais 2 (Inception 2025): Llama's decoder with LayerNorm, biases, and a plain mlp of a squared ReLU."""

from ...config import Decoder, LayerNorm
from ..config_readers.decoder import decoder, without_gates
from ..config_readers.gguf_keys import DECODER, EPS, fixed, without
from ..config_readers.keys import ACTIVATIONS, Keys
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import WEIGHTS as LLAMA
from .stablelm import GGUF_WEIGHTS

MODEL_TYPES = ("jais2",)
ARCHITECTURES: dict[str, Task] = decoders("Jais2", tasks=())


def config(keys: Keys, task: Task) -> Decoder:
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", None),
        context=8192,
        attention_bias=keys.get("attention_bias", bool, True),
        mlp_bias=keys.get("mlp_bias", bool, True),
        norm=LayerNorm(keys.positive("layer_norm_eps", 1e-5)),
    )
    return without_gates(base, keys.choice("hidden_act", ACTIVATIONS, "relu2"))


WEIGHTS = LLAMA + weight_map("""
    decoder.layers.{i}.attn_pre.bias <- layers.{i}.input_layernorm.bias
    decoder.layers.{i}.mlp_pre.bias <- layers.{i}.post_attention_layernorm.bias
    decoder.norm.bias <- norm.bias
""")
KEYS = {**without(DECODER, "rms_norm_eps"), "model_type": fixed("jais2"), "layer_norm_eps": EPS}
GGUF = Gguf("jais2", KEYS, GGUF_WEIGHTS)

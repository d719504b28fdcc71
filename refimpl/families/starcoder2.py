"""StarCoder 2 (Lozhkov et al. 2024): grouped heads, LayerNorm and a plain mlp, biases everywhere or nowhere;
all layers may see a window only."""

from __future__ import annotations

from ..config import LM, Attention, Config, Embedding, Full, Layer, LayerNorm, Plain, Stack, Window
from ..keys import ACTIVATIONS, Keys
from ..keys.layers import count, head_size
from ..keys.rope import exact_context, rope
from . import Gguf, Task, decoders
from .llama import WEIGHTS as LLAMA

MODEL_TYPES = ("starcoder2",)
ARCHITECTURES: dict[str, Task] = decoders("Starcoder2", tasks=("classify", "tag"))
PREFIX = "model."
GGUF: Gguf | None = None


def config(keys: Keys, task: Task) -> Config:
    keys.unused("residual_dropout", "embedding_dropout")
    size, context = keys.size("head_dim", None), keys.size("max_position_embeddings", 4096)
    size = head_size(keys) if size is None else size
    norm, bias = LayerNorm(keys.positive("norm_epsilon", 1e-5)), keys.get("use_bias", bool, True)
    position, window = rope(keys, size, context), keys.size("sliding_window", None)
    attention = Attention(
        keys.size("num_attention_heads"),
        keys.size("num_key_value_heads", 2),
        size,
        position,
        pattern=Full() if window is None else Window(window),
        qkv_bias=bias,
        out_bias=bias,
        pre=norm,
    )
    activation = keys.choice("hidden_act", ACTIVATIONS, "gelu_pytorch_tanh")
    layer = Layer(attention, Plain(keys.size("intermediate_size"), activation, bias=bias, pre=norm))
    return Config(
        Embedding(keys.size("vocab_size"), keys.size("hidden_size")),
        Stack((layer,) * count(keys), norm),
        LM(keys.get("tie_word_embeddings", bool, True)),
        exact_context(context, position),
    )


WEIGHTS = f"""
    {LLAMA.replace("up_proj", "c_fc").replace("down_proj", "c_proj")}
    decoder.layers.{{i}}.attn_pre.bias <- layers.{{i}}.input_layernorm.bias
    decoder.layers.{{i}}.mlp_pre.bias <- layers.{{i}}.post_attention_layernorm.bias
    decoder.norm.bias <- norm.bias
"""

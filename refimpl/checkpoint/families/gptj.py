"""GPT-J (Wang and Komatsuzaki 2021): attention and mlp in parallel after one norm, rotary pairs of
neighbours."""

from __future__ import annotations

from ...config import LM, Attention, Decoder, Embedding, Layer, LayerNorm, Plain, Rope, Stack
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Task, decoders
from .gpt2 import unused

MODEL_TYPES = ("gptj",)
ARCHITECTURES: dict[str, Task] = decoders("GPTJ", tasks=("classify", "answer"))
PREFIX = "transformer."
GGUF = None  # the format has the name, llama.cpp no graph for it


def config(keys: Keys, task: Task) -> Decoder:
    unused(keys)
    keys.harmless(rotary=(True,), scale_attn_weights=(True,))  # of code that can do otherwise
    width_key, heads_key = (
        keys.spelled("n_embd", "hidden_size"),
        keys.spelled("n_head", "num_attention_heads"),
    )
    width, heads, size = keys.size(width_key), keys.size(heads_key), head_size(keys, width_key, heads_key)
    norm = LayerNorm(keys.positive("layer_norm_epsilon", 1e-5))
    attention = Attention(
        heads, heads, size, Rope(10_000.0, keys.size("rotary_dim", 64), interleaved=True), pre=norm
    )
    mlp = Plain(
        keys.size("n_inner", None) or 4 * width,
        keys.choice("activation_function", ACTIVATIONS, "gelu_new"),
    )
    layers = layer_count(keys, keys.spelled("n_layer", "num_hidden_layers"))
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), width),
        stack=Stack((Layer(attention, mlp, parallel=True),) * layers, norm),
        head=LM(keys.get("tie_word_embeddings", bool, False), bias=True),
        context=keys.size(keys.spelled("n_positions", "max_position_embeddings"), 2048),
    )


WEIGHTS = weight_map("""
    embedding.table <- wte.weight
    decoder.layers.{i}.attn_pre.weight <- h.{i}.ln_1.weight
    decoder.layers.{i}.attn_pre.bias <- h.{i}.ln_1.bias
    decoder.layers.{i}.attn.wq <- h.{i}.attn.q_proj.weight : transpose
    decoder.layers.{i}.attn.wk <- h.{i}.attn.k_proj.weight : transpose
    decoder.layers.{i}.attn.wv <- h.{i}.attn.v_proj.weight : transpose
    decoder.layers.{i}.attn.wo <- h.{i}.attn.out_proj.weight : transpose
    decoder.layers.{i}.mlp.up <- h.{i}.mlp.fc_in.weight : transpose
    decoder.layers.{i}.mlp.bup <- h.{i}.mlp.fc_in.bias
    decoder.layers.{i}.mlp.down <- h.{i}.mlp.fc_out.weight : transpose
    decoder.layers.{i}.mlp.bdown <- h.{i}.mlp.fc_out.bias
    decoder.norm.weight <- ln_f.weight
    decoder.norm.bias <- ln_f.bias
    head.table <- lm_head.weight
    head.bias <- lm_head.bias
    embedding.table == lm_head.weight
    causal == h.{i}.attn.bias
    masked_score == h.{i}.attn.masked_bias
""")

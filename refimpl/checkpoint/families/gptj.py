"""GPT-J (Wang and Komatsuzaki 2021): attention and mlp in parallel after one norm.

Rotary positions rotate neighbouring elements."""

from ...config import LM, Attention, Decoder, Embedding, Layer, LayerNorm, Plain, Rope, Stack
from ..config_readers.keys import ACTIVATIONS, Keys
from ..weights.weight_map import weight_map
from . import Task, decoders
from .gpt2 import sizes, unused

MODEL_TYPES = ("gptj",)
ARCHITECTURES: dict[str, Task] = decoders("GPTJ", tasks=("classify", "answer"))
PREFIX = "transformer."
# No dialect of GGUF: the format has the name, llama.cpp no graph for it.


def config(keys: Keys, task: Task) -> Decoder:
    unused(keys)
    keys.harmless(rotary=(True,), scale_attn_weights=(True,))  # of code that can do otherwise
    width, heads, size, layers, context = sizes(keys, 2048)
    norm = LayerNorm(keys.positive("layer_norm_epsilon", 1e-5))
    attention = Attention(
        heads, heads, size, Rope(10_000.0, keys.size("rotary_dim", 64), interleaved=True), pre=norm
    )
    mlp = Plain(
        keys.size("n_inner", None) or 4 * width,
        keys.choice("activation_function", ACTIVATIONS, "gelu_new"),
    )
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), width),
        stack=Stack((Layer(attention, mlp, parallel=True),) * layers, norm),
        head=LM(keys.get("tie_word_embeddings", bool, False), bias=True),
        context=context,
    )


WEIGHTS = weight_map("""
    {embedding,head}.table <- {wte,lm_head}.weight
    decoder.layers.{i}.attn_pre.{weight,bias} <- h.{i}.ln_1.{weight,bias}
    decoder.layers.{i}.attn.{wq,wk,wv,wo} <- h.{i}.attn.{q,k,v,out}_proj.weight : transpose
    decoder.layers.{i}.mlp.{up,down} <- h.{i}.mlp.fc_{in,out}.weight : transpose
    decoder.layers.{i}.mlp.{bup,bdown} <- h.{i}.mlp.fc_{in,out}.bias
    decoder.norm.{weight,bias} <- ln_f.{weight,bias}
    head.bias <- lm_head.bias
    embedding.table == lm_head.weight
    {causal,masked_score} == h.{i}.attn.{bias,masked_bias}
""")

"""BioGPT (Luo et al. 2022): OPT's decoder. Token embeddings are multiplied by the square root of the
width."""

from ...config import LM, Attention, Decoder, Embedding, Layer, LayerNorm, Learned, Plain, Stack
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from . import Task, decoders
from .opt import EPS
from .opt import WEIGHTS as OPT

MODEL_TYPES = ("biogpt",)
ARCHITECTURES: dict[str, Task] = decoders("BioGpt", tasks=("classify", "tag"))
PREFIX = "biogpt."


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("layerdrop", "activation_dropout", "layer_norm_eps")  # of training; no class reads the last
    width, heads, size = keys.size("hidden_size"), keys.size("num_attention_heads"), head_size(keys)
    norm, context = LayerNorm(EPS), keys.size("max_position_embeddings", 1024)
    attention = Attention(heads, heads, size, qkv_bias=True, out_bias=True, pre=norm)
    mlp = Plain(keys.size("intermediate_size"), keys.choice("hidden_act", ACTIVATIONS, "gelu"), pre=norm)
    scale = width**0.5 if keys.get("scale_embedding", bool, True) else None
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), width, scale=scale),
        stack=Stack((Layer(attention, mlp),) * layer_count(keys), norm, Learned(context, offset=2)),
        head=LM(keys.get("tie_word_embeddings", bool, True)),
        context=context,
    )


WEIGHTS = OPT.renamed(
    {
        "decoder.embed_": "embed_",
        "decoder.layers.{i}.self_attn": "layers.{i}.self_attn",
        "decoder.layers.{i}.final_layer_norm": "layers.{i}.final_layer_norm",
        "decoder.layers.{i}.fc": "layers.{i}.fc",
        "decoder.final_layer_norm": "layer_norm",
        "lm_head": "output_projection",
    }
)

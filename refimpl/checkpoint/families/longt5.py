"""LongT5 (Guo et al. 2022, arXiv 2112.07916): T5's decoder after an encoder for long texts.

The encoder's tokens see a window. With `encoder_attention_type` "transient-global" they also see sums over
blocks of the text (`ops.longt5`). Everything else is as in T5. No table limits the length. The published
models were trained on 4,096 tokens and are used on 16,384 tokens, which is the encoder's context here. The
decoder's context is the same as in T5.
"""

from dataclasses import replace

from ...config import Attention, EncoderDecoder, Layer, RelativeBias, RMSNorm
from ...ops.longt5 import LongT5Attention
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, t5

MODEL_TYPES = ("longt5",)
ARCHITECTURES: dict[str, Task] = {"LongT5ForConditionalGeneration": "lm", "LongT5EncoderModel": "pool"}
PREFIX = "transformer."

CONTEXT = 16384


def config(keys: Keys, task: Task) -> EncoderDecoder:
    both = t5.config(keys, task)
    radius, block = keys.size("local_radius", 127), keys.size("global_block_size", 16)
    kinds = {"local": False, "transient-global": True}
    sums = keys.choice("encoder_attention_type", kinds, "local")
    if sums and block & (block - 1):
        raise keys.fail(
            "global_block_size", "a power of two, since transformers rounds other sizes to uneven blocks"
        )

    def local(layer: Layer) -> Layer:
        a = layer.attention
        assert isinstance(a, Attention)
        assert isinstance(a.position, RelativeBias)
        assert isinstance(a.pre, RMSNorm)
        size = block if sums else None
        mixer = LongT5Attention(a.heads, a.head_size, radius, a.position, size, a.pre.eps, **a.norms_around)
        return replace(layer, attention=mixer)

    encoder = replace(both.encoder, layers=tuple(map(local, both.encoder.layers)))
    return replace(both, encoder=encoder, encoder_context=max(CONTEXT, both.context))


_SELF = "encoder.block.{i}.layer.0.(Local|TransientGlobal)SelfAttention."
_FIRST, _SUMS = _SELF.replace("{i}", "0"), _SELF.replace("(Local|TransientGlobal)", "TransientGlobal")
WEIGHTS = (
    weight_map(f"""
    encoder.relative_bias <- {_FIRST}relative_attention_bias.weight
    encoder.global_relative_bias <- {_SUMS.replace("{i}", "0")}global_relative_attention_bias.weight
    encoder.layers.{{i}}.attn.global_norm <- {_SUMS}global_input_layer_norm.weight
    encoder.layers.{{i}}.attn.{{wq,wk,wv,wo}} <- {_SELF}{{q,k,v,o}}.weight : transpose
    """)
    + t5.WEIGHTS
)

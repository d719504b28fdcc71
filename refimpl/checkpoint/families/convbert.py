"""ConvBERT (Jiang et al. 2020): ELECTRA's encoder, in which convolutions replace half of the heads
(`ops.convbert`).

If an mlp has groups, the checkpoint stores a matrix for each group of channels. Here they are one matrix,
filled up with zeros.
"""

from dataclasses import replace

from ...config import Attention, Classify, Dense, Encoder
from ...ops.convbert import ConvBertAttention
from ..config_readers.keys import ACTIVATIONS, Keys
from ..weights.weight_map import weight_map
from . import Task, electra, encoders

MODEL_TYPES = ("convbert",)
ARCHITECTURES: dict[str, Task] = encoders("ConvBert")
PREFIX = "convbert."


def config(keys: Keys, task: Task) -> Encoder:
    keys.choice("directionality", {"bidi": None}, "bidi")  # of Google's own code
    width, ratio, groups = keys.size("hidden_size"), keys.size("head_ratio", 2), keys.size("num_groups", 1)
    heads = max(keys.size("num_attention_heads") // ratio, 1)
    if width % (2 * heads):
        raise keys.fail("hidden_size", f"a multiple of {2 * heads}, the number of heads of both kinds")
    if width % groups or keys.size("intermediate_size") % groups:
        raise keys.fail("num_groups", "a divisor of hidden_size and intermediate_size")
    kernel = keys.size("conv_kernel_size", 9)
    if kernel < 3 or kernel % 2 == 0:
        raise keys.fail(
            "conv_kernel_size", "an odd number of at least 3: a token, and as many neighbours on each side"
        )
    own = {"embedding_size": keys.size("embedding_size", 768), "num_attention_heads": heads}
    base, layers = electra.config(keys.replaced({**keys.values, **own}), task), []
    for layer in base.stack.layers:
        assert isinstance(layer.attention, Attention)
        mixer = ConvBertAttention(heads, width // heads // 2, kernel // 2, **layer.attention.norms_around)
        layers.append(replace(layer, attention=mixer))
    base = replace(base, stack=replace(base.stack, layers=tuple(layers)))
    if not isinstance(base.head, Classify):
        return base
    return replace(base, head=replace(base.head, dense=Dense(keys.choice("hidden_act", ACTIVATIONS, "gelu"))))


_LAYER, _SELF = "encoder.layer.{i}.", "encoder.layer.{i}.attention.self."
_MLPS = ("encoder.layers.{i}.mlp.up", "encoder.layers.{i}.mlp.down")
WEIGHTS = electra.WEIGHTS.without(*_MLPS) + weight_map(f"""
    encoder.layers.{{i}}.mlp.up <- {_LAYER}intermediate.dense.weight : by_group
    encoder.layers.{{i}}.mlp.down <- {_LAYER}output.dense.weight : by_group
    encoder.layers.{{i}}.attn.conv <- {_SELF}key_conv_attn_layer.depthwise.weight : taps
    encoder.layers.{{i}}.attn.w_conv <- {_SELF}key_conv_attn_layer.pointwise.weight : one_tap
    encoder.layers.{{i}}.attn.b_conv <- {_SELF}key_conv_attn_layer.bias : flatten
    encoder.layers.{{i}}.attn.w_kernel <- {_SELF}conv_kernel_layer.weight : transpose
    encoder.layers.{{i}}.attn.b_kernel <- {_SELF}conv_kernel_layer.bias
    encoder.layers.{{i}}.attn.w_near <- {_SELF}conv_out_layer.weight : transpose
    encoder.layers.{{i}}.attn.b_near <- {_SELF}conv_out_layer.bias
""")

"""LFM2 and LFM2.5 (Liquid AI 2025): short convolutions, and attention with normalized heads in a few
layers."""

from dataclasses import replace

from ...config import Decoder, Layer, RMSNorm
from ...ops.short_conv import ShortConv
from ..config_readers.decoder import decoder, map_layers
from ..config_readers.gguf_keys import DECODER, RMS_EPS, fixed, layers_with_heads, without
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import layer_count, stated_types
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .llama import QK_NORM, TRUNK
from .qwen3 import with_qk_norm

MODEL_TYPES = ("lfm2",)
ARCHITECTURES: dict[str, Task] = decoders("Lfm2", tasks=())
KINDS = ("full_attention", "conv")
THETA = 1_000_000.0


def config(keys: Keys, task: Task) -> Decoder:
    # Of training and of its own code; no class reads these.
    keys.harmless(conv_dim=(int,), conv_dim_out=(int,), conv_use_xavier_init=(bool,), block_dim=(int,))
    keys.harmless(block_mlp_init_scale=(float,), block_out_init_scale=(float,), block_norm_eps=(float,))
    keys.harmless(
        block_use_swiglu=(True,), block_use_xavier_init=(bool,), use_pos_enc=(True,), num_heads=(int,)
    )
    keys.harmless(theta=(keys.get("rope_theta", float, None) or THETA,))
    return hybrid(keys.replaced({**keys.values, "intermediate_size": _mlp_width(keys)}))


def hybrid(keys: Keys) -> Decoder:
    """Return the decoder with gated mlps, and with a convolution or attention in each layer."""
    tied = keys.get("tie_embedding", bool, keys.get("tie_word_embeddings", bool, True))
    norm = RMSNorm(keys.positive("norm_eps", 1e-5))
    base = decoder(
        keys.replaced({**keys.values, "tie_word_embeddings": tied}),
        kv_heads=keys.size("num_key_value_heads", 8),
        context=128_000,
        attention_bias=False,
        theta=THETA,
        norm=norm,
    )
    length, bias = keys.size("conv_L_cache", 3), keys.get("conv_bias", bool, False)
    return with_convolutions(with_qk_norm(base), _convolves(keys), length, bias=bias)


def _mlp_width(keys: Keys) -> int:
    """Return the width of the mlps.

    The config may state the width of an mlp without a gate that has as many weights.
    """
    width = keys.size("block_ff_dim", None) or keys.size("intermediate_size")
    multiple, factor = (
        keys.size("block_multiple_of", 256),
        keys.positive("block_ffn_dim_multiplier", 1.0, null=True),
    )
    if not keys.get("block_auto_adjust_ff_dim", bool, True):
        return width
    width = int(2 * width / 3)
    if factor is None:
        return width
    return multiple * -(-int(factor * width) // multiple)


def _convolves(keys: Keys) -> list[bool]:
    """Return which layers have a convolution instead of attention."""
    layers, types = layer_count(keys), stated_types(keys, KINDS)
    attends = keys.get("full_attn_idxs", list, None)
    if types is None:
        places = range(layers) if attends is None else attends
        return [i not in places for i in range(layers)]
    return [kind == "conv" for kind in types]


def with_convolutions(config: Decoder, convolves: list[bool], length: int, *, bias: bool = False) -> Decoder:
    """Return the decoder with a short convolution instead of attention in the layers that `convolves`
    marks.
    """

    def mixed(i: int, layer: Layer) -> Layer:
        if not convolves[i]:
            return layer
        return replace(
            layer, attention=ShortConv(config.embedding.width, length, bias, **layer.attention.norms_around)
        )

    return map_layers(config, mixed)


LAYER_NAMES = {
    "input_layernorm": "operator_norm",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.up_proj": "feed_forward.w3",
    "mlp.down_proj": "feed_forward.w2",
}
NAMES = {
    **LAYER_NAMES,
    "self_attn.o_proj": "self_attn.out_proj",
    "q_norm.weight": "q_layernorm.weight",
    "k_norm.weight": "k_layernorm.weight",
}
CONVOLUTIONS = weight_map("""
    decoder.norm.weight <- embedding_norm.weight
    decoder.layers.{i}.mlp_pre.weight <- layers.{i}.ffn_norm.weight
    decoder.layers.{i}.attn.{wi,wo} <- layers.{i}.conv.{in,out}_proj.weight : transpose
    decoder.layers.{i}.attn.{bi,conv_bias,bo} <- layers.{i}.conv.{in_proj,conv,out_proj}.bias
    decoder.layers.{i}.attn.conv <- layers.{i}.conv.conv.weight : taps
""")
WEIGHTS = (TRUNK + QK_NORM).renamed(NAMES).without("decoder.norm.weight") + CONVOLUTIONS


GGUF_WEIGHTS = UNPERMUTED_QK_WEIGHTS.renamed({"output_norm": "token_embd_norm"}) + weight_map("""
    decoder.layers.{i}.attn.{wi,conv,wo} <- blk.{i}.shortconv.{in_proj,conv,out_proj}.weight : transpose
""")
KEYS = {
    **without(DECODER, "rms_norm_eps"),
    **layers_with_heads(("conv", "full_attention")),
    "model_type": fixed("lfm2"),
    "norm_eps": RMS_EPS,
    "conv_L_cache": "shortconv.l_cache",
    "block_auto_adjust_ff_dim": fixed(False),
}
GGUF = Gguf("lfm2", KEYS, GGUF_WEIGHTS, by_layer=("attention.head_count_kv",))

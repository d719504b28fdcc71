"""RecurrentGemma (Botev et al. 2024): linear recurrent units, and attention with a sliding window in some
layers.

Everything else is as in Gemma, except biases. The factor of the embeddings is a bfloat16 number, whatever the
type of the weights.
"""

import math

from ...config import LM, Attention, Decoder, Embedding, Gated, Layer, RMSNorm, Stack, Window
from ...ops.rg_lru import RgLru
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..config_readers.rope import rope
from ..weights.weight_map import weight_map
from . import Task, decoders
from .gemma import add_one_to_norms

MODEL_TYPES = ("recurrent_gemma",)
ARCHITECTURES: dict[str, Task] = decoders("RecurrentGemma", tasks=())
KINDS = ["recurrent", "recurrent", "attention"]
# No key states the context: this is the length of the texts that it was trained with (the report's §3).
CONTEXT = 8192


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("w_init_variance_scale", "final_w_init_variance_scale")  # of training
    width, size = keys.size("hidden_size", 2560), head_size(keys)
    heads, units = keys.size("num_attention_heads"), keys.size("lru_width", width, null=True) or width
    # The head size again; a switch that no class reads; and of a first release, a spelling of block_types.
    keys.harmless(head_dim=(size,), embeddings_scale_by_sqrt_dim=(True,))
    keys.harmless(_block_types=(keys.get("block_types", list, KINDS),))
    if units % heads:
        raise keys.fail("lru_width", f"a multiple of num_attention_heads ({heads})")
    inner = keys.size("intermediate_size", 3 * 2560) // 2
    norm = RMSNorm(keys.positive("rms_norm_eps", 1e-6))
    activation = keys.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh")
    attention = Attention(
        heads=heads,
        kv_heads=keys.size("num_key_value_heads", None, null=True) or heads,
        head_size=size,
        position=rope(keys, size, CONTEXT, partial=0.5, kinds={"default": "default"}),
        mask=Window(keys.size("attention_window_size", 2048)),
        qkv_bias=keys.get("attention_bias", bool, False),
        out_bias=True,
        pre=norm,
    )
    unit = RgLru(heads, units // heads, keys.size("conv1d_width", 4), activation, pre=norm)
    mlp = Gated(inner, activation, bias=True, pre=norm)
    layers = tuple(Layer(attention if kind == "attention" else unit, mlp) for kind in _kinds(keys))
    return Decoder(
        embedding=Embedding(keys.size("vocab_size", 256_000), width, scale=_bfloat16(width**0.5)),
        stack=Stack(layers, norm),
        head=LM(keys.get("tie_word_embeddings", bool, True), softcap=keys.positive("logits_soft_cap", 30.0)),
        context=CONTEXT,
    )


def _kinds(keys: Keys) -> list[str]:
    """Return the kind of each layer, by repeating `block_types`."""
    kinds, count = keys.get("block_types", list, KINDS), layer_count(keys, default=26)
    if not kinds or any(kind not in KINDS for kind in kinds):
        raise keys.fail("block_types", "a list of layers, each recurrent or attention")
    return [kinds[i % len(kinds)] for i in range(count)]


def _bfloat16(x: float) -> float:
    """Round a number to the nearest bfloat16 number, which has 8 bits of precision."""
    share, exponent = math.frexp(x)
    return math.ldexp(round(share * 256), exponent - 8)


WEIGHTS = add_one_to_norms(
    weight_map("""
    {embedding,head}.table <- {embed_tokens,lm_head}.weight
    decoder.layers.{i}.{attn,mlp}_pre.weight <- layers.{i}.{temporal,channel}_pre_norm.weight
    decoder.layers.{i}.attn.{wq,wk,wv} <- layers.{i}.temporal_block.{q,k,v}_proj.weight : transpose
    decoder.layers.{i}.attn.{bq,bk,bv} <- layers.{i}.temporal_block.{q,k,v}_proj.bias
    decoder.layers.{i}.attn.wo <- layers.{i}.temporal_block.(o_proj|linear_out).weight : transpose
    decoder.layers.{i}.attn.bo <- layers.{i}.temporal_block.(o_proj|linear_out).bias
    decoder.layers.{i}.attn.{wi,wz} <- layers.{i}.temporal_block.linear_{x,y}.weight : transpose
    decoder.layers.{i}.attn.{bi,bz,conv_bias} <- layers.{i}.temporal_block.{linear_x,linear_y,conv_1d}.bias
    decoder.layers.{i}.attn.conv <- layers.{i}.temporal_block.conv_1d.weight : taps
    decoder.layers.{i}.attn.forget <- layers.{i}.temporal_block.rg_lru.recurrent_param
    decoder.layers.{i}.attn.{w,b}_input <- layers.{i}.temporal_block.rg_lru.input_gate_{weight,bias}
    decoder.layers.{i}.attn.{w,b}_decay <- layers.{i}.temporal_block.rg_lru.recurrent_gate_{weight,bias}
    decoder.layers.{i}.mlp.{gate,up,down} <- layers.{i}.mlp_block.{gate,up,down}_proj.weight : transpose
    decoder.layers.{i}.mlp.{bgate,bup,bdown} <- layers.{i}.mlp_block.{gate,up,down}_proj.bias
    decoder.norm.weight <- final_norm.weight
    embedding.table == lm_head.weight
""")
)

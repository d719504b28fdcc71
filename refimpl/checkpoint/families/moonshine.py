"""Moonshine (Jeffries et al. 2024): an encoder that reads the samples of a sound, and a decoder that writes
the transcript.

Sounds may have any length. Both stacks rotate a part of each head, and their norms have no bias. The mlps of
the decoder are gated, and the mlps of the encoder aren't.
"""

from __future__ import annotations

from dataclasses import replace

from ...config import (
    LM,
    Attention,
    Convolution,
    Embedding,
    EncoderDecoder,
    Gated,
    Layer,
    LayerNorm,
    MoonshineStem,
    Plain,
    Stack,
)
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..config_readers.rope import ROPE_TYPES, rope
from ..weights.weight_map import weight_map
from . import Task

MODEL_TYPES = ("moonshine",)
ARCHITECTURES: dict[str, Task] = {"MoonshineForConditionalGeneration": "lm"}
UNREAD_ARCHITECTURES = {"MoonshineModel": "returns hidden states, not a text"}
SAMPLES = 64 * 16_000  # of the longest sound: Moonshine's own code takes no longer one
# Those whose frequencies don't depend on a length: the encoder's is that of the sound.
KINDS = {kind: kind for kind in ROPE_TYPES if kind not in ("dynamic", "longrope")}


def config(keys: Keys, task: Task) -> EncoderDecoder:
    keys.harmless(pad_head_dim_to_multiple_of=(int, None))  # zeros beside heads, which change nothing
    norm, width = LayerNorm(1e-5, bias=False), keys.size("hidden_size", 288)
    keys = keys.with_defaults({
        "hidden_size": width, "encoder_num_attention_heads": 8, "decoder_num_attention_heads": 8
    })  # fmt: skip
    heads = keys.size("encoder_num_attention_heads")
    size = head_size(keys, "hidden_size", "encoder_num_attention_heads")
    # transformers gives the decoder the encoder's heads whatever the file says, and can't run shared keys.
    same = f"the same as encoder_num_attention_heads ({heads})"
    keys.restated("decoder_num_attention_heads", heads, same)
    for side in ("encoder", "decoder"):
        if keys.size(name := f"{side}_num_key_value_heads", None) not in (None, heads):
            raise keys.fail(name, same)
    keys.restated("head_dim", size, f"hidden_size / encoder_num_attention_heads ({size})")
    context = keys.size("max_position_embeddings", 512)
    position = replace(rope(keys, size, context, partial=0.9, kinds=KINDS), interleaved=True)
    biased, inner = keys.get("attention_bias", bool, False), keys.size("intermediate_size", 1152)
    cross = Attention(heads, heads, size, qkv_bias=biased, pre=norm)
    attention = replace(cross, position=position)
    plain, gated = (
        keys.choice(f"{side}_hidden_act", ACTIVATIONS, usual)
        for side, usual in (("encoder", "gelu"), ("decoder", "silu"))
    )
    lower, upper = (layer_count(keys, f"{side}_num_hidden_layers", 6) for side in ("encoder", "decoder"))
    stem = MoonshineStem((
        Convolution(width, 127, 64), Convolution(2 * width, 7, 3), Convolution(width, 3, 2),
    ))  # fmt: skip
    encoder = Stack((Layer(attention, Plain(inner, plain, pre=norm)),) * lower, norm, stem=stem)
    reading = Layer(attention, Gated(inner, gated, bias=True, pre=norm), cross=cross)
    return EncoderDecoder(
        embedding=Embedding(keys.size("vocab_size", 32_768), width),
        encoder=encoder,
        decoder=Stack((reading,) * upper, norm),
        head=LM(keys.get("tie_word_embeddings", bool, True)),
        context=context,
        encoder_context=stem.positions(SAMPLES),
    )


# What each layer of both stacks has, with the names of its attentions and norms.
_LAYER = """
    {side}.layers.{i}.attn_pre.weight <- {side}.layers.{i}.input_layernorm.weight
    {side}.layers.{i}.attn.{wq,wk,wv,wo} <- {side}.layers.{i}.self_attn.{q,k,v,o}_proj.weight : transpose
    {side}.layers.{i}.attn.{bq,bk,bv} <- {side}.layers.{i}.self_attn.{q,k,v}_proj.bias
    {side}.layers.{i}.mlp.down <- {side}.layers.{i}.mlp.fc2.weight : transpose
    {side}.layers.{i}.mlp.bdown <- {side}.layers.{i}.mlp.fc2.bias
"""
WEIGHTS = weight_map(
    "".join(_LAYER.replace("{side}", side) for side in ("encoder", "decoder"))
    + """
    encoder.stem.convolutions.0.kernel <- encoder.conv1.weight
    encoder.stem.convolutions.0.norm.{weight,bias} <- encoder.groupnorm.{weight,bias}
    encoder.stem.convolutions.1.kernel <- encoder.conv2.weight
    encoder.stem.convolutions.1.bias <- encoder.conv2.bias
    encoder.stem.convolutions.2.kernel <- encoder.conv3.weight
    encoder.stem.convolutions.2.bias <- encoder.conv3.bias
    encoder.layers.{i}.mlp_pre.weight <- encoder.layers.{i}.post_attention_layernorm.weight
    encoder.layers.{i}.mlp.up <- encoder.layers.{i}.mlp.fc1.weight : transpose
    encoder.layers.{i}.mlp.bup <- encoder.layers.{i}.mlp.fc1.bias
    encoder.norm.weight <- encoder.layer_norm.weight
    embedding.table <- decoder.embed_tokens.weight
    decoder.layers.{i}.cross_pre.weight <- decoder.layers.{i}.post_attention_layernorm.weight
    decoder.layers.{i}.cross.{wq,wk,wv} <- decoder.layers.{i}.encoder_attn.{q,k,v}_proj.weight : transpose
    decoder.layers.{i}.cross.wo <- decoder.layers.{i}.encoder_attn.o_proj.weight : transpose
    decoder.layers.{i}.cross.{bq,bk,bv} <- decoder.layers.{i}.encoder_attn.{q,k,v}_proj.bias
    decoder.layers.{i}.mlp_pre.weight <- decoder.layers.{i}.final_layernorm.weight
    decoder.layers.{i}.mlp.up, gate <- decoder.layers.{i}.mlp.fc1.weight : transpose
    decoder.layers.{i}.mlp.bup, bgate <- decoder.layers.{i}.mlp.fc1.bias
    decoder.norm.weight <- decoder.norm.weight
    head.table <- proj_out.weight
    embedding.table == proj_out.weight
"""
)

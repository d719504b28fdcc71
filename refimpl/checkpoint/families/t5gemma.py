"""T5Gemma (Zhang et al. 2025, arXiv 2504.06225): Gemma 2's layers as an encoder and a decoder.

Encoder and decoder have separate embedding tables and sizes. The encoder's tokens see both directions, and
its windows extend equally far to both sides. tfm doesn't support transformers' classes with labels, because
they aren't consistent. In a batch they read the decoder's vector after the last token, and for a single text
the vector before it.
"""

from dataclasses import replace
from typing import Any

from ...config import Attention, Decoder, DynamicNTK, EncoderDecoder, Layer, LongRope, Window
from ..config_readers.decoder import map_layers
from ..config_readers.generation_keys import UNREAD
from ..config_readers.keys import Keys
from ..weights.weight_map import weight_map
from . import Task, gemma2
from .gemma import add_one_to_norms

MODEL_TYPES = ("t5gemma",)
ARCHITECTURES: dict[str, Task] = {"T5GemmaForConditionalGeneration": "lm", "T5GemmaEncoderModel": "pool"}
DEFAULTS: dict[str, Any] = {
    "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8,
}  # fmt: skip


def config(keys: Keys, task: Task) -> EncoderDecoder:
    for key in ("dropout_rate", "classifier_dropout_rate", "attention_dropout"):
        keys.get(key, float, None)
    keys.get("vocab_size", int, None)  # each part has one of its own
    encoder, decoder = part(keys, "encoder", task), part(keys, "decoder", task)
    ropes, contexts = {*encoder.ropes, *decoder.ropes}, (encoder.context, decoder.context)
    if any(isinstance(rope.scaling, LongRope | DynamicNTK) for rope in ropes):
        contexts = (min(contexts),) * 2  # such scalings depend on a length, which is one in a model

    def reads(layer: Layer) -> Layer:
        a = layer.attention
        assert isinstance(a, Attention)
        cross = Attention(
            a.heads, a.kv_heads, a.head_size, qkv_bias=a.qkv_bias, out_bias=a.out_bias, scale=a.scale,
            softcap=a.softcap, **a.norms_around,
        )  # fmt: skip
        return replace(layer, cross=cross)

    return EncoderDecoder(
        embedding=decoder.embedding,
        encoder=map_layers(encoder, both_ways).stack,
        decoder=replace(decoder.stack, layers=tuple(map(reads, decoder.layers))),
        head=replace(decoder.head, tied=keys.get("tie_word_embeddings", bool, True)),
        context=contexts[1],
        encoder_context=contexts[0],
        encoder_embedding=encoder.embedding,
    )


def part(keys: Keys, side: str, task: Task) -> Decoder:
    """Return the encoder or the decoder of T5Gemma, in the form of a Gemma 2 decoder."""
    own = Keys(keys.get(side, dict), f"{keys.where}: {side}", ignore=keys.ignore).with_defaults(DEFAULTS)
    own.choice("model_type", {"t5_gemma_module": None}, "t5_gemma_module")
    # transformers sets them by the other part and by the model's own keys.
    own.unused("dropout_rate", "classifier_dropout_rate", "cross_attention_hidden_size", "architectures",
               "is_encoder_decoder", "add_cross_attention")  # fmt: skip
    decoder = gemma2.config(own, task)
    own.finish(UNREAD)
    return decoder


def both_ways(_: int, layer: Layer) -> Layer:
    """Return the layer with a window that extends equally far in both directions."""
    a = layer.attention
    assert isinstance(a, Attention)
    return layer if a.window is None else replace(layer, attention=replace(a, mask=Window(a.window + 1)))


STACK = """
    encoder.layers.{i}.attn.{wq,wk,wv,wo} <- encoder.layers.{i}.self_attn.{q,k,v,o}_proj.weight : transpose
    encoder.layers.{i}.attn.{bq,bk,bv,bo} <- encoder.layers.{i}.self_attn.{q,k,v,o}_proj.bias
    encoder.layers.{i}.mlp.{gate,up,down} <- encoder.layers.{i}.mlp.{gate,up,down}_proj.weight : transpose
    encoder.layers.{i}.attn_{pre,post}.weight <- encoder.layers.{i}.{pre,post}_self_attn_layernorm.weight
    encoder.layers.{i}.mlp_{pre,post}.weight <- encoder.layers.{i}.{pre,post}_feedforward_layernorm.weight
    encoder.norm.weight <- encoder.norm.weight
"""
_CROSS, _NORM = "decoder.layers.{i}.cross_attn.", "cross_attn_layernorm.weight"
WEIGHTS = add_one_to_norms(
    weight_map(STACK)
    + weight_map(STACK.replace("encoder.", "decoder."))
    + weight_map(f"""
    decoder.layers.{{i}}.cross.{{wq,wk,wv,wo}} <- {_CROSS}{{q,k,v,o}}_proj.weight : transpose
    decoder.layers.{{i}}.cross.{{bq,bk,bv,bo}} <- {_CROSS}{{q,k,v,o}}_proj.bias
    decoder.layers.{{i}}.cross_{{pre,post}}.weight <- decoder.layers.{{i}}.{{pre,post}}_{_NORM}
    for LM:
    encoder_embedding.table <- encoder.embed_tokens.weight
    embedding.table <- decoder.embed_tokens.weight
    embedding.table == lm_head.out_proj.weight
    head.table <- lm_head.out_proj.weight
    """)
    + weight_map("""
    for Pool:
    embedding.table <- encoder.embed_tokens.weight
    """)
)

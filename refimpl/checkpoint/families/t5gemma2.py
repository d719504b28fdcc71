"""The text part of T5Gemma 2 (Zhang et al. 2025, arXiv 2512.14856): Gemma 3's layers as encoder and decoder.

The decoder has no separate cross-attention. Its attention reads the encoder's vectors too, by the same
projections, and computes one softmax over both. The token that ends an image has a separate vector, which
isn't in the table.
"""

from dataclasses import replace
from typing import Any

from ...config import Attention, Decoder, DynamicNTK, EncoderDecoder, Layer, LongRope, Window
from ..config_readers.generation_keys import UNREAD
from ..config_readers.keys import Keys
from ..weights.weight_map import WeightMap, weight_map
from . import Task, gemma3
from .gemma import add_one_to_norms
from .t5gemma import STACK

MODEL_TYPES = ("t5gemma2",)
ARCHITECTURES: dict[str, Task] = {"T5Gemma2ForConditionalGeneration": "lm"}
DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8,
}  # fmt: skip


def config(keys: Keys, task: Task) -> EncoderDecoder:
    # Of training, of pictures, and what each part has of its own.
    keys.unused(
        "dropout_rate", "classifier_dropout_rate", "vocab_size", "eoi_token_index", "image_token_index"
    )
    outer = _part(keys, "encoder", "t5gemma2_encoder", {})
    outer.unused("vision_config", "mm_tokens_per_image", "boi_token_index", "image_token_index",
                 "tie_word_embeddings")  # fmt: skip
    end = outer.get("eoi_token_index", int, 256_000)
    text = _part(outer, "text_config", "t5gemma2_text", DEFAULTS)
    encoder = _gemma3(text, task)
    outer.finish(UNREAD)
    decoder = _gemma3(_part(keys, "decoder", "t5gemma2_decoder", DEFAULTS), task)
    contexts = (encoder.context, decoder.context)
    if any(isinstance(rope.scaling, LongRope | DynamicNTK) for rope in {*encoder.ropes, *decoder.ropes}):
        contexts = (min(contexts),) * 2  # such scalings depend on a length, which is one in a model
    embedding = replace(decoder.embedding, apart=end if end < decoder.embedding.vocabulary else None)
    if encoder.embedding != decoder.embedding:
        raise keys.fail(
            "encoder", "an object with a text_config that has the decoder's hidden_size and vocab_size"
        )
    tied = keys.get("tie_word_embeddings", bool, True)
    return EncoderDecoder(
        embedding=embedding,
        encoder=replace(encoder.stack, layers=tuple(map(_both_ways, encoder.layers))),
        decoder=replace(decoder.stack, layers=tuple(map(_merged, decoder.layers))),
        head=replace(decoder.head, tied=tied),
        context=contexts[1],
        encoder_context=contexts[0],
        encoder_embedding=None if tied else embedding,
    )


def _part(keys: Keys, side: str, kind: str, defaults: dict[str, Any]) -> Keys:
    own = Keys(keys.get(side, dict), f"{keys.where}: {side}", ignore=keys.ignore).with_defaults(defaults)
    own.choice("model_type", {kind: None}, kind)
    own.unused("architectures", "is_encoder_decoder", "add_cross_attention", "cross_attention_hidden_size")
    return own


def _gemma3(keys: Keys, task: Task) -> Decoder:
    keys.unused("dropout_rate")  # transformers takes the model's own
    decoder = gemma3.config(keys, task)
    keys.finish(UNREAD)
    assert isinstance(decoder, Decoder)
    return decoder


def _both_ways(layer: Layer) -> Layer:
    """Return the layer with a window of the same size, half of it after the current token."""
    a = layer.attention
    assert isinstance(a, Attention)
    if a.window is None:
        return layer
    return replace(layer, attention=replace(a, mask=Window((a.window + 1) // 2, a.window // 2 + 1)))


def _merged(layer: Layer) -> Layer:
    a = layer.attention
    assert isinstance(a, Attention)
    return replace(layer, cross=a.merged_keys, merged=True)


LAYERS = (
    STACK
    + """
    encoder.layers.{i}.attn.{q,k}_norm <- encoder.layers.{i}.self_attn.{q,k}_norm.weight
"""
)
_READ, _SELF = "decoder.layers.{i}.cross.", "decoder.layers.{i}.self_attn."
_STACKS = add_one_to_norms(
    weight_map(LAYERS.replace("<- encoder.", "<- encoder.(text_model.|)"))
    + weight_map(LAYERS.replace("encoder.", "decoder."))
    + weight_map(f"""
    {_READ}{{wk,wv}} <- {_SELF}{{k,v}}_proj.weight : transpose
    {_READ}{{bk,bv}} <- {_SELF}{{k,v}}_proj.bias
    {_READ}k_norm <- {_SELF}k_norm.weight
    left out <- encoder.{{vision_tower,multi_modal_projector}}.*
    head.table <- lm_head.out_proj.weight
    """)
)
_TABLE = """
    {whose}.{table,apart} <- encoder.(text_model.|)embed_tokens.{weight,eoi_embedding}
    embedding.{table,apart} {reads} decoder.embed_tokens.{weight,eoi_embedding}
    nothing <- encoder.(text_model.|)embed_tokens.eoi_embedding
"""
_TIED = _TABLE.replace("{whose}", "embedding").replace("{reads}", "==")
_UNUSED = "nothing <- decoder.embed_tokens.eoi_embedding"  # of a token outside of the vocabulary
_OWN = _TABLE.replace("{whose}", "encoder_embedding").replace("{reads}", "<-") + _UNUSED
WEIGHTS = _STACKS + weight_map(f"{_TIED} embedding.table == lm_head.out_proj.weight")


def checkpoint_weights(keys: Keys) -> WeightMap:
    return WEIGHTS if keys.get("tie_word_embeddings", bool, True) else _STACKS + weight_map(_OWN)

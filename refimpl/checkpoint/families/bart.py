"""BART (Lewis et al. 2020): an encoder and a decoder. This file also reads what Marian, mBART, Pegasus and
other models share with BART.

transformers has a class for each model type. The class decides where the norms are and how positions are
made. Old configs repeat these decisions in keys that no class reads; here these keys must agree with the
class.
"""

from typing import Any, Literal

from ...config import (
    LM,
    Attention,
    Embedding,
    EncoderDecoder,
    Layer,
    LayerNorm,
    Learned,
    Plain,
    Sinusoidal,
    Stack,
)
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import head_size, layer_count
from ..weights.weight_map import weight_map
from . import Task

MODEL_TYPES = ("bart",)
ARCHITECTURES: dict[str, Task] = {
    "BartForConditionalGeneration": "lm",
    "BartModel": "lm",
    "BartForSequenceClassification": "classify",
    "BartForQuestionAnswering": "answer",
}


def config(keys: Keys, task: Task) -> EncoderDecoder:
    return pair(keys, norms="after", first=True)


def pair(
    keys: Keys,
    *,
    norms: Literal["pre", "after"],
    first: bool,
    waves: Sinusoidal | None = None,
    offset: int = 2,
    contexts: tuple[int, int] | None = None,
) -> EncoderDecoder:
    """Return an encoder and a decoder of BART's form.

    `norms` is "pre" (before each sublayer and after the last layer) or "after" (after each residual sum).
    `first` adds a norm after the embedding. Positions are sinusoidal if `waves` is given; otherwise they are
    learned, and the first position has row `offset` of their table. `contexts` are the contexts of the
    encoder and of the decoder, if they differ.
    """
    _check_old(keys, norms=norms, first=first, waves=waves is not None, offset=offset)
    width = keys.size("d_model")
    contexts = (keys.size("max_position_embeddings", 1024),) * 2 if contexts is None else contexts
    norm = LayerNorm(1e-5)
    stacks = []
    for side, context in zip(("encoder", "decoder"), contexts, strict=True):
        heads = keys.size(named := f"{side}_attention_heads")
        size, depth = head_size(keys, "d_model", named), layer_count(keys, f"{side}_layers")
        place: dict[str, Any] = {norms: norm}
        attention = Attention(heads, heads, size, qkv_bias=True, out_bias=True, **place)
        kind = keys.choice("activation_function", ACTIVATIONS, "gelu")
        layer = Layer(
            attention,
            Plain(keys.size(f"{side}_ffn_dim"), kind, **place),
            cross=attention if side == "decoder" else None,
        )
        positions = waves or Learned(context, offset)
        last, entry = norm if norms == "pre" else None, norm if first else None
        stacks.append(Stack((layer,) * depth, last, positions, entry))
    return EncoderDecoder(
        embedding=Embedding(
            keys.size("vocab_size"),
            width,
            width**0.5 if keys.get("scale_embedding", bool, False) else None,
        ),
        encoder=stacks[0],
        decoder=stacks[1],
        # A buffer of zeros where a file, one of the trunk alone, doesn't have it.
        head=LM(
            keys.get("tie_word_embeddings", bool, True),
            bias=keys.tensors is None or "final_logits_bias" in keys.tensors,
        ),
        context=contexts[1],
        encoder_context=None if contexts[0] == contexts[1] else contexts[0],
    )


def _check_old(keys: Keys, *, norms: str, first: bool, waves: bool, offset: int) -> None:
    """Check the keys of old configs that no class reads, and mark the keys of training and of other heads as
    known.
    """
    for old_key in ("dropout", "activation_dropout", "classif_dropout", "init_std",
                "encoder_layerdrop", "decoder_layerdrop"):  # fmt: skip
        keys.get(old_key, float, None)
    # A switch of another library and a number of KoBART's releases: no class reads them.
    keys.harmless(do_blenderbot_90_layernorm=(False,), kobart_version=(float,))
    for old_key, value in (
        ("normalize_before", norms == "pre"),
        ("add_final_layer_norm", norms == "pre"),
        ("normalize_embedding", first),
        ("static_position_embeddings", waves),
    ):
        if keys.get(old_key, bool, value) != value:
            raise keys.fail(
                old_key, f"{str(value).lower()}, as transformers' class of this model_type computes"
            )
    keys.get("add_bias_logits", bool, False)  # the bias stands in the file, zeros or not
    if keys.get("extra_pos_embeddings", int, offset) != offset and not waves:
        raise keys.fail("extra_pos_embeddings", f"{offset}, the row of the first position")
    for old_key, current_key in (("num_hidden_layers", "encoder_layers"), ("hidden_size", "d_model"),
                     ("num_attention_heads", "encoder_attention_heads")):  # fmt: skip
        keys.restated(old_key, size := keys.size(current_key), f"the same as {current_key} ({size})")


# What the encoder has and the decoder too.
_STACK = weight_map("""
    encoder.positions <- encoder.embed_positions.weight
    waves == encoder.embed_positions.{weight,weights}
    encoder.first_norm.{weight,bias} <- encoder.layernorm_embedding.{weight,bias}
    encoder.layers.{i}.attn_pre.{weight,bias} <- encoder.layers.{i}.self_attn_layer_norm.{weight,bias}
    encoder.layers.{i}.attn_after.{weight,bias} <- encoder.layers.{i}.self_attn_layer_norm.{weight,bias}
    encoder.layers.{i}.attn.{wq,wk,wv} <- encoder.layers.{i}.self_attn.{q,k,v}_proj.weight : transpose
    encoder.layers.{i}.attn.{bq,bk,bv,bo} <- encoder.layers.{i}.self_attn.{q,k,v,out}_proj.bias
    encoder.layers.{i}.attn.wo <- encoder.layers.{i}.self_attn.out_proj.weight : transpose
    encoder.layers.{i}.mlp_pre.{weight,bias} <- encoder.layers.{i}.final_layer_norm.{weight,bias}
    encoder.layers.{i}.mlp_after.{weight,bias} <- encoder.layers.{i}.final_layer_norm.{weight,bias}
    encoder.layers.{i}.mlp.{up,down} <- encoder.layers.{i}.{fc1,fc2}.weight : transpose
    encoder.layers.{i}.mlp.{bup,bdown} <- encoder.layers.{i}.{fc1,fc2}.bias
    encoder.norm.{weight,bias} <- encoder.layer_norm.{weight,bias}
    nothing <- encoder.version
""")
WEIGHTS = (
    weight_map("""
    embedding.table <- (shared|decoder.embed_tokens|encoder.embed_tokens).weight
    embedding.table == {decoder,encoder}.embed_tokens.weight
""")
    + _STACK
    + _STACK.renamed({"encoder.": "decoder."})
    + weight_map("""
    decoder.layers.{i}.cross_pre.{weight,bias} <- decoder.layers.{i}.encoder_attn_layer_norm.{weight,bias}
    decoder.layers.{i}.cross_after.{weight,bias} <- decoder.layers.{i}.encoder_attn_layer_norm.{weight,bias}
    decoder.layers.{i}.cross.{wq,wk,wv} <- decoder.layers.{i}.encoder_attn.{q,k,v}_proj.weight : transpose
    decoder.layers.{i}.cross.{bq,bk,bv,bo} <- decoder.layers.{i}.encoder_attn.{q,k,v,out}_proj.bias
    decoder.layers.{i}.cross.wo <- decoder.layers.{i}.encoder_attn.out_proj.weight : transpose
    head.table <- lm_head.weight
    embedding.table == lm_head.weight
    head.bias <- final_logits_bias : row
""")
)

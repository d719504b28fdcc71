"""Gemma 2 (Riviere et al. 2024): norms before and after each sublayer, and soft caps for scores and logits.

Every second layer has a sliding window."""

from collections.abc import Callable

from ...config import (
    LM,
    Attention,
    Decoder,
    Embedding,
    FullAttention,
    Gated,
    HeadNorm,
    Layer,
    RMSNorm,
    Rope,
    Stack,
    Window,
)
from ..config_readers.gguf_keys import DECODER, Row, fixed, optional
from ..config_readers.gguf_metadata import own_head_size
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import ACTIVATIONS, Keys
from ..config_readers.layers import layer_count, layer_masks, layer_types, read_window
from ..config_readers.rope import exact_context, rope
from ..formats.tensor_source import TensorSource
from ..weights.weight_map import weight_map
from . import Gguf, Task, decoders
from .gemma import add_one_to_norms, check_causal
from .llama import QK_NORM, TRUNK

MODEL_TYPES = ("gemma2",)
ARCHITECTURES: dict[str, Task] = decoders("Gemma2", tasks=("classify", "tag"))


def config(keys: Keys, task: Task) -> Decoder:
    check_causal(keys)
    # Its first releases state the window twice, transformers reads the other.
    keys.harmless(sliding_window_size=(keys.get("sliding_window", int, 4096, null=True),))
    size, context = keys.size("head_dim", 256), keys.size("max_position_embeddings", 8192)
    position = rope(keys, size, context)
    return sandwich(
        keys,
        layer_types(keys, lambda i: i % 2 == 0),
        lambda kind: position,
        context=exact_context(context, position),
        score_cap=keys.positive("attn_logit_softcapping", 50.0, null=True),
        logit_cap=keys.positive("final_logit_softcapping", 30.0, null=True),
    )


def sandwich(
    keys: Keys,
    types: list[str],
    positions: Callable[[str], Rope],
    *,
    context: int,
    score_cap: float | None,
    logit_cap: float | None,
    qk_norm: bool = False,
) -> Decoder:
    """Return the decoder of Gemma 2 or 3, with norms before and after each sublayer.

    A layer's type (`types`) decides its mask and its rotary positions.
    """
    keys.get("cache_implementation", str, None)  # of transformers' generation
    activation = keys.choice("hidden_activation", ACTIVATIONS, "gelu_pytorch_tanh")
    if keys.get("hidden_act", str, None) and keys.choice("hidden_act", ACTIVATIONS) != activation:
        raise keys.fail("hidden_act", f"the same as hidden_activation ({activation})")
    norm, width = RMSNorm(keys.positive("rms_norm_eps", 1e-6)), keys.size("hidden_size")
    bias = keys.get("attention_bias", bool, False)
    mlp = Gated(keys.size("intermediate_size"), activation, pre=norm, post=norm)

    def layer(kind: str, pattern: FullAttention | Window) -> Layer:
        attention = Attention(
            heads=keys.size("num_attention_heads"),
            kv_heads=keys.size("num_key_value_heads", 4),
            head_size=keys.size("head_dim", 256),
            position=positions(kind),
            mask=pattern,
            qkv_bias=keys.shows("attn_q.bias", stated=bias),
            out_bias=keys.shows("attn_output.bias", stated=bias),
            qk_norm=HeadNorm(norm) if qk_norm else None,
            scale=keys.positive("query_pre_attn_scalar", 256.0) ** -0.5,
            softcap=score_cap,
            pre=norm,
            post=norm,
        )
        return Layer(attention, mlp)

    layers = map(layer, types, layer_masks(keys, types, read_window(keys, 4096, everywhere=False)))
    return Decoder(
        embedding=Embedding(keys.size("vocab_size"), width, scale=width**0.5),
        stack=Stack(tuple(layers), norm),
        head=LM(keys.get("tie_word_embeddings", bool, True), softcap=logit_cap),
        context=context,
    )


WEIGHTS = add_one_to_norms(
    TRUNK
    + QK_NORM
    + weight_map("""
    decoder.layers.{i}.{attn,mlp}_post.weight <- layers.{i}.post_{attention,feedforward}_layernorm.weight
    decoder.layers.{i}.mlp_pre.weight <- layers.{i}.pre_feedforward_layernorm.weight
""")
)


# One is added to the norms' weights already.
GGUF_WEIGHTS = UNPERMUTED_QK_WEIGHTS + weight_map("""
    decoder.layers.{i}.{attn,mlp}_post.weight <- blk.{i}.post_{attention,ffw}_norm.weight
""")


def scalar(largest: int) -> Row:
    """Return the divisor of attention scores for a GGUF file, which has no key for it.

    As in llama.cpp, the divisor is the head size. For the model with `largest` layers it is the width divided
    by the number of heads."""

    def read(keys: Keys, _: TensorSource) -> int:
        if layer_count(keys, "block_count") != largest:
            return own_head_size(keys)
        return keys.size("embedding_length") // keys.size("attention.head_count")

    return Row(read)


KEYS = {
    **DECODER,
    "model_type": fixed("gemma2"),
    "sliding_window": optional("attention.sliding_window", 4096),
    "query_pre_attn_scalar": scalar(46),
    "attn_logit_softcapping": optional("attn_logit_softcapping", 50.0),
    "final_logit_softcapping": optional("final_logit_softcapping", 30.0),
}
GGUF = Gguf("gemma2", KEYS, GGUF_WEIGHTS)

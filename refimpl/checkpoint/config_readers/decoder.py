"""Read a decoder of Llama's form from config.json or from GGUF. Many families are based on such a decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ...config import (
    LM,
    MTP,
    ONE_GROUP,
    XIELU,
    Activation,
    Attention,
    Decoder,
    Embedding,
    ExpertGroups,
    FullAttention,
    Gated,
    Layer,
    Mlp,
    MoE,
    Norm,
    Plain,
    RMSNorm,
    Rope,
    Stack,
    Window,
)
from .keys import ACTIVATIONS, Keys
from .layers import head_size, layer_count
from .rope import exact_context, rope


def decoder(
    keys: Keys,
    *,
    context: int,
    kv_heads: int | None = None,
    attention_bias: bool | None = None,
    mlp_bias: bool = False,
    window: int | None = None,
    theta: float = 10_000.0,
    eps: float = 1e-6,
    head: int | None = None,
    tied: bool = False,
    norm: Norm | None = None,
    positions: Callable[..., Rope | None] = rope,
) -> Decoder:
    """Return a decoder of Llama's form with equal layers.

    `context`, `theta`, `eps`, `head` (the head size) and `tied` are the family's defaults. Without `kv_heads`
    and `attention_bias` the usual keys are read, with Llama's defaults. `norm` replaces the RMSNorm of the
    usual key, for families that state their norm in another way. `positions` is the function `rope`, or a
    `functools.partial` of it with the family's own settings.
    """
    if kv_heads is None:
        kv_heads = keys.size("num_key_value_heads", None)
    bias = keys.get("attention_bias", bool, False) if attention_bias is None else attention_bias
    heads, size = keys.size("num_attention_heads"), keys.size("head_dim", head) or head_size(keys)
    context = keys.size("max_position_embeddings", context)
    position = positions(keys, size, context, theta=theta)
    norm = norm or RMSNorm(keys.positive("rms_norm_eps", eps))
    return build(
        vocabulary=keys.size("vocab_size"),
        width=keys.size("hidden_size"),
        layers=layer_count(keys),
        attention=Attention(
            heads=heads,
            kv_heads=kv_heads or heads,
            head_size=size,
            position=position,
            mask=FullAttention() if window is None else Window(window),
            qkv_bias=keys.shows("attn_q.bias", stated=bias),
            out_bias=keys.shows("attn_output.bias", stated=bias),
            pre=norm,
        ),
        mlp=Gated(
            keys.size("intermediate_size"),
            keys.choice("hidden_act", ACTIVATIONS, "silu"),
            bias=keys.shows("ffn_up.bias", stated=mlp_bias),
            pre=norm,
        ),
        tied=keys.get("tie_word_embeddings", bool, tied),
        context=exact_context(context, position),
    )


def build(
    *, vocabulary: int, width: int, layers: int, attention: Attention, mlp: Mlp, tied: bool, context: int
) -> Decoder:
    """Return a decoder of equal layers. The norm after the last layer is like the norm before each mlp."""
    return Decoder(
        embedding=Embedding(vocabulary, width),
        stack=Stack((Layer(attention, mlp),) * layers, mlp.pre),
        head=LM(tied),
        context=context,
    )


def map_layers(config: Decoder, change: Callable[[int, Layer], Layer]) -> Decoder:
    """Return the decoder with each layer i replaced by `change(i, layer)`."""
    layers = tuple(change(i, layer) for i, layer in enumerate(config.layers))
    return replace(config, stack=replace(config.stack, layers=layers))


def with_experts(
    config: Decoder, mixture: Callable[[Gated], MoE], sparse: int | Sequence[bool] = 0
) -> Decoder:
    """Return the decoder with mixtures of experts, made from its gated mlp, in some layers.

    An integer `sparse` is the index of the first layer with experts. A list `sparse` says for each layer
    whether it has experts.
    """
    dense = config.layers[0].mlp
    assert isinstance(dense, Gated)
    mlp = mixture(dense)
    if isinstance(sparse, int):
        sparse = [i >= sparse for i in range(len(config.layers))]
    return map_layers(config, lambda i, layer: replace(layer, mlp=mlp) if sparse[i] else layer)


def sigmoid_experts(
    mlp: Gated,
    experts: int,
    top: int,
    width: int,
    *,
    renormalize: bool = True,
    scale: float = 1,
    shared: int = 0,
    groups: ExpertGroups = ONE_GROUP,
) -> MoE:
    """Return a mixture of experts in place of a gated mlp. Sigmoids and biases choose the experts
    (DeepSeek-V3).

    There are `experts` experts of width `width`, and each token is sent to `top` of them. The `shared`
    experts, which process every token, become one expert with their total width.
    """
    return MoE(
        experts,
        top,
        width,
        mlp.activation,
        "sigmoid",
        renormalize,
        scale=None if scale == 1 else scale,
        choice_bias=True,
        shared=width * shared or None,
        groups=groups,
        **mlp.norms_around,
    )


def with_mtp(config: Decoder, modules: int, layer: Layer | None) -> Decoder:
    """Return the decoder with a module for drafts (MTP) made of this layer, if config.json states one module.

    If config.json states no module, or several, the decoder is returned unchanged.
    """
    norm = config.stack.final_norm
    if modules != 1 or layer is None or not isinstance(norm, RMSNorm):
        return config
    return replace(config, mtp=MTP(layer, norm))


def map_attention(config: Decoder, change: Callable[[int, Attention], Attention]) -> Decoder:
    """Return the decoder with the attention of each layer i replaced by `change(i, attention)`."""

    def changed(i: int, layer: Layer) -> Layer:
        assert isinstance(layer.attention, Attention), "families' decoders have attention alone"
        return replace(layer, attention=change(i, layer.attention))

    return map_layers(config, changed)


def with_masks(config: Decoder, masks: Sequence[FullAttention | Window]) -> Decoder:
    """Return the decoder with these masks, one for each layer."""
    return map_attention(config, lambda i, attention: replace(attention, mask=masks[i]))


def interleaved(config: Decoder) -> Decoder:
    """Return the decoder with rotary positions that rotate pairs of neighbouring elements, instead of pairs
    from the two halves of a head.
    """

    def change(_: int, a: Attention) -> Attention:
        return (
            replace(a, position=replace(a.position, interleaved=True)) if isinstance(a.position, Rope) else a
        )

    return map_attention(config, change)


def without_gates(config: Decoder, activation: Activation | XIELU) -> Decoder:
    """Return the decoder with plain mlps of this activation in place of gated mlps."""

    def plain(_: int, layer: Layer) -> Layer:
        mlp = layer.mlp
        assert isinstance(mlp, Gated)
        return replace(layer, mlp=Plain(mlp.width, activation, mlp.bias, **mlp.norms_around))

    return map_layers(config, plain)

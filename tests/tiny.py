"""Tiny models for tests: random weights, biases and norms too, all axis sizes different."""

import numpy as np
from tfm.refimpl import params
from tfm.refimpl.config import (
    LM,
    Activation,
    Attention,
    Config,
    Embedding,
    Full,
    Gated,
    Layer,
    LayerNorm,
    Plain,
    RMSNorm,
    Rope,
    Stack,
    Window,
)


def llama(
    *,
    layers: int = 2,
    vocabulary: int = 97,
    width: int = 48,
    heads: int = 6,
    groups: int = 2,
    head_size: int = 16,
    mlp: int = 80,
    window: int | None = None,
    tied: bool = True,
    bias: bool = False,
    qk_norm: bool = False,
    plain: bool = False,
    kind: Activation = "silu",
    context: int = 128,
) -> Config:
    """A Llama-type decoder; the defaults satisfy the fused attention operator (head size 16)."""
    norm = LayerNorm(1e-5) if plain else RMSNorm(1e-5)
    attention = Attention(
        heads=heads,
        groups=groups,
        head_size=head_size,
        position=Rope(10_000.0, head_size),
        pattern=Full() if window is None else Window(window),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=RMSNorm(1e-6) if qk_norm else None,
        pre=norm,
    )
    feed = Plain(mlp, kind, bias=bias, pre=norm) if plain else Gated(mlp, kind, bias=bias, pre=norm)
    return Config(
        embedding=Embedding(vocabulary, width),
        decoder=Stack((Layer(attention, feed),) * layers, norm),
        head=LM(tied),
        context=context,
    )


def weights(config: Config, seed: int = 0, dtype: type = np.float32) -> dict:
    """Random parameters of a Config."""
    return params.random(config, np.random.default_rng(seed), dtype)

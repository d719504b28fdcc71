"""Any small Config, drawn: each union's variants in each place where they may stand."""

from __future__ import annotations

from hypothesis import strategies as st
from tfm.refimpl.config import (
    LM,
    Attention,
    Config,
    Embedding,
    Full,
    Gated,
    Layer,
    LayerNorm,
    LinearScaling,
    Llama3Scaling,
    Norm,
    Plain,
    RMSNorm,
    Rope,
    Stack,
    Window,
)

eps = st.sampled_from((1e-6, 1e-2))
norms: st.SearchStrategy[Norm | None] = st.one_of(
    st.none(), st.builds(RMSNorm, eps), st.builds(LayerNorm, eps, st.booleans())
)
kinds = st.sampled_from(("relu", "gelu", "gelu_tanh", "silu"))
scalings = st.one_of(
    st.none(),
    st.builds(LinearScaling, st.sampled_from((2.0, 8.0))),
    st.builds(Llama3Scaling, st.just(8.0), st.just(1.0), st.just(4.0), st.sampled_from((8, 64))),
)
mlps = st.one_of(
    st.builds(Gated, st.integers(1, 9), kinds, st.booleans(), norms, norms, norms),
    st.builds(Plain, st.integers(1, 9), kinds, st.booleans(), norms, norms, norms),
)


@st.composite
def attentions(draw: st.DrawFn) -> Attention:
    groups, size = draw(st.integers(1, 2)), draw(st.integers(1, 6))
    rope = None
    if size > 1 and draw(st.booleans()):
        dims = 2 * draw(st.integers(1, size // 2))
        rope = Rope(draw(st.sampled_from((10.0, 1e4))), dims, draw(st.booleans()), draw(scalings))
    return Attention(
        heads=groups * draw(st.integers(1, 3)),
        groups=groups,
        head_size=size,
        position=rope,
        pattern=draw(st.one_of(st.just(Full()), st.builds(Window, st.integers(1, 4)))),
        qkv_bias=draw(st.booleans()),
        out_bias=draw(st.booleans()),
        qk_norm=draw(st.one_of(st.none(), st.builds(RMSNorm, eps))),
        scale=draw(st.sampled_from((None, 0.7))),
        softcap=draw(st.sampled_from((None, 3.0))),
        pre=draw(norms),
        post=draw(norms),
        after=draw(norms),
    )


layers = st.builds(Layer, attentions(), mlps, st.booleans())


@st.composite
def configs(draw: st.DrawFn) -> Config:
    return Config(
        embedding=Embedding(
            draw(st.integers(2, 12)), draw(st.integers(1, 8)), draw(st.sampled_from((None, 3.0)))
        ),
        decoder=Stack(tuple(draw(st.lists(layers, min_size=1, max_size=2))), draw(norms)),
        head=LM(draw(st.booleans()), draw(st.sampled_from((None, 2.0)))),
        context=32,
    )

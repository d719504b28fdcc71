"""Qwen 2 MoE."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import SIZES, decoder, sizes
from .mixtral import EAGER


def mixed(layers: int, **more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The keys of both kinds: any layer may be without experts, by its number or by its step."""
    return sizes(
        num_hidden_layers=st.just(layers),
        num_experts=st.sampled_from([0, 3, 4, 5]),
        num_experts_per_tok=st.integers(1, 3),
        moe_intermediate_size=st.sampled_from([5, 8]),
        norm_topk_prob=st.booleans(),
        decoder_sparse_step=st.integers(1, 3),
        mlp_only_layers=st.none() | st.lists(st.integers(0, 3), max_size=2),
        sliding_window=st.sampled_from([1, 3, 5, 64]),
        experts_implementation=EAGER,
        **more,
    )


@st.composite
def _keys(draw: st.DrawFn) -> dict[str, Any]:
    layers, slides = draw(st.integers(1, 4)), draw(st.booleans())
    kinds = st.sampled_from(["full_attention", "sliding_attention"])
    strategy = mixed(
        layers,
        use_sliding_window=st.just(slides),
        max_window_layers=st.integers(0, 4),
        layer_types=st.none() | st.lists(kinds, min_size=layers, max_size=layers) if slides else st.none(),
        qkv_bias=st.booleans(),
        shared_expert_intermediate_size=st.sampled_from([6, 9]),
    )
    return draw(strategy)


ROWS = {
    "qwen2_moe": decoder(
        transformers.Qwen2MoeConfig,
        transformers.Qwen2MoeForCausalLM,
        _keys(),
        {**SIZES, "num_attention_heads": 16},
    )
}

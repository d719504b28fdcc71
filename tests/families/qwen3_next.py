"""Qwen3-Next and Qwen 3.5."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import IDS, SIZES, Row, decoder, ropes, sizes
from .mixtral import EAGER
from .qwen2_vl import row, sections
from .qwen3_vl import VISION


def turned_parts(head_size: int) -> st.SearchStrategy[float]:
    """How much of a head is turned: more than one pair, for which transformers divides by zero."""
    return st.sampled_from([part for part in (0.25, 0.5, 1.0) if part * head_size > 2])


@st.composite
def hybrid(draw: st.DrawFn, **more: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Gated delta networks in any layers, stated one by one or by their interval."""
    layers = draw(st.integers(1, 4))
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            attention_bias=st.booleans(),
            linear_conv_kernel_dim=st.integers(2, 4),
            linear_key_head_dim=st.sampled_from([3, 8]),
            linear_value_head_dim=st.sampled_from([5, 8]),
            linear_num_key_heads=st.integers(1, 3),
            **more,
        )
    )
    keys["linear_num_value_heads"] = keys["linear_num_key_heads"] * draw(st.integers(1, 3))
    keys["hidden_act"] = "silu"
    kinds = st.sampled_from(["full_attention", "linear_attention"])
    types = st.lists(kinds, min_size=layers, max_size=layers)
    keys |= draw(
        st.one_of(
            types.map(lambda types: {"layer_types": types}),
            st.integers(1, 3).map(lambda every: {"full_attention_interval": every}),
        )
    )
    keys["head_dim"] = draw(st.sampled_from([8, 16]))
    part = draw(turned_parts(keys["head_dim"]))
    return keys | {
        "rope_parameters": {**draw(ropes(int(keys["head_dim"] * part))), "partial_rotary_factor": part}
    }


EXPERTS: dict[str, st.SearchStrategy[Any]] = {
    "num_experts": st.sampled_from([3, 4, 5]),
    "num_experts_per_tok": st.integers(1, 3),
    "moe_intermediate_size": st.sampled_from([5, 8]),
    "shared_expert_intermediate_size": st.sampled_from([6, 9]),
    "experts_implementation": EAGER,
}
MIXED: dict[str, st.SearchStrategy[Any]] = {
    **EXPERTS,
    "norm_topk_prob": st.booleans(),
    "decoder_sparse_step": st.integers(1, 3),
    "mlp_only_layers": st.none() | st.lists(st.integers(0, 3), max_size=2),
}


@st.composite
def text_keys(draw: st.DrawFn, **more: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Keys of a text model within one that reads images: sections of M-RoPE, of the part that is turned."""
    keys = draw(hybrid(**more))
    part = draw(turned_parts(keys["head_dim"]))
    turned = draw(sections(int(keys["head_dim"] * part)))
    turned |= {"mrope_interleaved": True, "partial_rotary_factor": part}
    keys.pop("experts_implementation", None)
    return {**IDS, **keys, "rope_parameters": turned}


def alone(name: str, keys: st.SearchStrategy[dict[str, Any]], reads: str) -> Row:
    config, model = (getattr(transformers, f"{name}{end}") for end in ("TextConfig", "ForCausalLM"))
    return decoder(config, model, keys, reads=reads)


DENSE_SIZES = {**SIZES, "num_attention_heads": 16}
ROWS = {
    "qwen3_next": Row(
        transformers.Qwen3NextConfig,
        (transformers.Qwen3NextForCausalLM,),
        hybrid(**MIXED),
        {**SIZES, "num_attention_heads": 16},
    ),
    "qwen3_5_text": alone("Qwen3_5", hybrid(), "Qwen3_5Text"),
    "qwen3_5_moe_text": alone("Qwen3_5Moe", hybrid(**EXPERTS), "Qwen3_5MoeText"),
    "qwen3_5": row(
        "Qwen3_5", text_keys(), VISION, DENSE_SIZES, "Model ForSequenceClassification ForTokenClassification"
    ),
    "qwen3_5_moe": row(
        "Qwen3_5Moe", text_keys(**EXPERTS), VISION, DENSE_SIZES, "Model", experts_implementation="eager"
    ),
}

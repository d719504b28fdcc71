"""Qwen3-VL, with and without a mixture of experts."""

from typing import Any

from hypothesis import strategies as st

from .kit import IDS, SIZES, sizes
from .qwen2_moe import mixed
from .qwen2_vl import TOWER, row, sections

VISION: dict[str, Any] = {
    **TOWER, "intermediate_size": 8, "out_hidden_size": 8, "num_position_embeddings": 4,
    "deepstack_visual_indexes": [0],
}  # fmt: skip


@st.composite
def text_keys(draw: st.DrawFn, keys: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """Keys of a text model; sections may overlap, they are interleaved."""
    drawn = draw(keys)
    turned = {**draw(sections(drawn["head_dim"])), "mrope_interleaved": True}
    return {**IDS, **drawn, "rope_parameters": turned}


# Keys of other classes, and one that counts for the whole model.
ABSENT = ("norm_topk_prob", "sliding_window", "experts_implementation")
MOE = st.integers(1, 3).flatmap(lambda layers: mixed(layers, attention_bias=st.booleans()))
ROWS = {
    "qwen3_vl": row(
        "Qwen3VL",
        text_keys(sizes(attention_bias=st.booleans())),
        VISION,
        {**SIZES, "num_attention_heads": 32},
    ),
    "qwen3_vl_moe": row(
        "Qwen3VLMoe",
        text_keys(MOE.map(lambda keys: {k: v for k, v in keys.items() if k not in ABSENT})),
        VISION,
        {**SIZES, "num_attention_heads": 16},
        experts_implementation="eager",
    ),
}

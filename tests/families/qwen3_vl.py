"""Qwen3-VL."""

from typing import Any

from hypothesis import strategies as st

from .kit import IDS, SIZES, sizes
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


ROWS = {
    "qwen3_vl": row(
        "Qwen3VL",
        text_keys(sizes(attention_bias=st.booleans())),
        VISION,
        {**SIZES, "num_attention_heads": 32},
    ),
}

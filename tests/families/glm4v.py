"""GLM-4.1V and GLM-4.6V Flash."""

from typing import Any

from hypothesis import strategies as st

from .kit import IDS, SIZES, sizes
from .qwen2_vl import TOWER, row, sections

VISION: dict[str, Any] = {**TOWER, "image_size": 4, "out_hidden_size": 8, "intermediate_size": 8}


@st.composite
def text_keys(draw: st.DrawFn) -> dict[str, Any]:
    """Heads are their share of the width; a part of each is rotated, all of it where no key says so."""
    keys = draw(sizes())
    size, part = draw(st.sampled_from([(16, None), (8, None), (8, 0.5), (16, 0.75), (12, 1.0)]))
    rope = draw(sections(int(size * (part or 1.0))))
    outside = {} if part is None else {"partial_rotary_factor": part}
    if draw(st.booleans()):
        rope, outside = rope | outside, {}
    del keys["head_dim"]
    keys["hidden_size"] = size * keys["num_attention_heads"]
    return keys | IDS | outside | {"rope_parameters": rope}


ROWS = {"glm4v": row("Glm4v", text_keys(), VISION, SIZES)}

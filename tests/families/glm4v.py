"""GLM-4.1V to GLM-4.6V, and GLM-OCR."""

from typing import Any

from hypothesis import strategies as st

from .glm4_moe import choice_biases, sigmoid_experts
from .kit import IDS, SIZES, sizes
from .llava import without_implementation
from .qwen2_vl import TOWER, row, sections

VISION: dict[str, Any] = {**TOWER, "image_size": 4, "out_hidden_size": 8, "intermediate_size": 8}


@st.composite
def text_keys(
    draw: st.DrawFn, strategy: st.SearchStrategy[dict[str, Any]], *, default: float = 1.0, whole: bool = False
) -> dict[str, Any]:
    """A part of each head is rotated, `default` of it where no key says so; heads that are `whole` are
    their share of the width."""
    keys = draw(strategy)
    size, part = draw(st.sampled_from([(16, None), (8, None), (8, 0.5), (16, 0.75), (12, 1.0)]))
    rope = draw(sections(int(size * (part or default))))
    outside = {} if part is None else {"partial_rotary_factor": part}
    if draw(st.booleans()):
        rope, outside = rope | outside, {}
    keys |= IDS | outside | {"head_dim": size, "rope_parameters": rope}
    if whole:
        del keys["head_dim"]
        keys["hidden_size"] = size * keys["num_attention_heads"]
    return keys


ROWS = {
    "glm4v": row("Glm4v", text_keys(sizes(), whole=True), VISION, SIZES),
    "glm_ocr": row("GlmOcr", text_keys(sizes()), VISION, SIZES),
    "glm4v_moe": row(
        "Glm4vMoe",
        text_keys(without_implementation(sigmoid_experts()), default=0.5),
        VISION,
        SIZES,
        amend=choice_biases,
        experts_implementation="eager",
    ),
}

"""Qwen 2."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import SIZES, decoder, sizes

TYPES = ("full_attention", "sliding_attention")


@st.composite
def windowed(draw: st.DrawFn, **more: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Keys of Qwen: windows in upper layers, or in those that a list names."""
    keys = draw(sizes(**more))
    keys["num_hidden_layers"] = layers = draw(st.sampled_from([2, 3, 1]))
    kind = draw(st.sampled_from(["upper", "listed", "unused", "none"]))
    keys["use_sliding_window"] = kind != "unused"
    keys["sliding_window"] = None if kind == "none" else draw(st.sampled_from([3, 1, 5, 64]))
    if kind == "listed":
        keys["layer_types"] = [draw(st.sampled_from(TYPES)) for _ in range(layers)]
    return keys | {"max_window_layers": draw(st.sampled_from([1, 0, 2, 28]))}


ROWS = {
    "qwen2": decoder(
        transformers.Qwen2Config,
        transformers.Qwen2ForCausalLM,
        windowed(),
        {**SIZES, "num_attention_heads": 32},
    )
}

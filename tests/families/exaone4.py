"""EXAONE 4."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import IDS, SIZES, decoder, sizes
from .qwen2 import TYPES


@st.composite
def windowed(draw: st.DrawFn) -> dict[str, Any]:
    """Windows by an interval or by a list; without a window all layers have positions."""
    keys = draw(sizes())
    keys["num_hidden_layers"] = layers = draw(st.sampled_from([3, 2, 1, 4]))
    window = keys["sliding_window"] = draw(st.sampled_from([3, None, 1, 5, 64]))
    listed = [draw(st.sampled_from(TYPES)) for _ in range(layers)]
    if window is None:  # transformers has no default for it
        keys["layer_types"] = ["full_attention"] * layers
    elif draw(st.booleans()):
        keys |= {"layer_types": listed, "sliding_window_pattern": "LLLG"}
    else:
        keys["sliding_window_pattern"] = draw(st.sampled_from([2, 1, 3, 4]))
    return keys | IDS


ROWS = {
    "exaone4": decoder(
        transformers.Exaone4Config,
        transformers.Exaone4ForCausalLM,
        windowed(),
        {**SIZES, "num_attention_heads": 32},
    )
}

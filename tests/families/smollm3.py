"""SmolLM3."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import IDS, decoder, sizes
from .qwen2 import TYPES


@st.composite
def _smollm3(draw: st.DrawFn) -> dict[str, Any]:
    """Layers without positions by an interval or by a list; these, or those that a list names, slide."""
    keys = draw(sizes(attention_bias=st.booleans(), mlp_bias=st.booleans()))
    keys["num_hidden_layers"] = layers = draw(st.sampled_from([3, 2, 1, 4]))
    keys["no_rope_layer_interval"] = draw(st.sampled_from([2, 1, 3, 4]))
    if draw(st.booleans()):
        keys["no_rope_layers"] = [draw(st.integers(0, 1)) for _ in range(layers)]
    kind = draw(st.sampled_from(["unturned", "listed", "unused", "none"]))
    keys["use_sliding_window"] = kind != "unused"
    keys["sliding_window"] = None if kind == "none" else draw(st.sampled_from([3, 1, 5, 64]))
    if kind == "listed":
        keys["layer_types"] = [draw(st.sampled_from(TYPES)) for _ in range(layers)]
    return keys | IDS


ROWS = {"smollm3": decoder(transformers.SmolLM3Config, transformers.SmolLM3ForCausalLM, _smollm3())}

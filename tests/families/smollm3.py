"""SmolLM3."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import IDS, Row, sizes


@st.composite
def _smollm3(draw: st.DrawFn) -> dict[str, Any]:
    """Layers without positions by an interval or by a list; these, or those that a list names, slide."""
    found = draw(sizes(attention_bias=st.booleans(), mlp_bias=st.booleans()))
    found["num_hidden_layers"] = layers = draw(st.integers(1, 4))
    found["no_rope_layer_interval"] = draw(st.integers(1, 4))
    if draw(st.booleans()):
        found["no_rope_layers"] = [draw(st.integers(0, 1)) for _ in range(layers)]
    used = draw(st.booleans())
    found |= {"use_sliding_window": used, "sliding_window": draw(st.sampled_from([None, 1, 3, 64]))}
    if used and found["sliding_window"] is not None and draw(st.booleans()):
        kinds = st.sampled_from(["full_attention", "sliding_attention"])
        found["layer_types"] = [draw(kinds) for _ in range(layers)]
    return found | IDS


ROWS = {"smollm3": Row(transformers.SmolLM3Config, (transformers.SmolLM3ForCausalLM,), _smollm3())}

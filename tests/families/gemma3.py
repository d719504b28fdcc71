"""Gemma 3's text model."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .gemma2 import sandwich
from .kit import decoder, ropes


@st.composite
def text_keys(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(sandwich(draw(st.integers(1, 4)), sliding_window_pattern=st.integers(1, 4)))
    full, sliding = ropes(keys["head_dim"]), ropes(keys["head_dim"])
    kinds = {"full_attention": full, "sliding_attention": sliding}
    # transformers reads `truncate` beside the types of layers only.
    config_keys = draw(st.fixed_dictionaries(kinds))
    return keys | {
        "rope_parameters": {
            k: {n: v for n, v in r.items() if n != "truncate"} for k, r in config_keys.items()
        }
    }


ROWS = {
    "gemma3_text": decoder(
        transformers.Gemma3TextConfig, transformers.Gemma3ForCausalLM, text_keys(), reads="Gemma3Text"
    )
}

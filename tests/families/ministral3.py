"""Ministral 3."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes


@st.composite
def scaled(draw: st.DrawFn) -> dict[str, Any]:
    """Mistral's keys, and a scale of queries that grows within the prompt or only after it."""
    keys = draw(sizes(sliding_window=st.sampled_from([None, 1, 3, 64])))
    fits = keys["rope_parameters"]["rope_type"] == "longrope"  # no text is longer there
    scale = {
        "original_max_position_embeddings": draw(st.sampled_from([12, 64] if fits else [1, 3, 5, 12, 64])),
        "llama_4_scaling_beta": draw(st.sampled_from([0.0, 0.1, 2.0])),
    }
    return {**keys, "rope_parameters": {**keys["rope_parameters"], **scale}}


ROWS = {"ministral3": decoder(transformers.Ministral3Config, transformers.Ministral3ForCausalLM, scaled())}

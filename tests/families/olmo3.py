"""OLMo 3."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import decoder, ropes, sizes


@st.composite
def _olmo3(draw: st.DrawFn) -> dict[str, Any]:
    layers = draw(st.integers(1, 4))
    kinds = ("full_attention", "sliding_attention")
    keys = draw(
        sizes(
            num_hidden_layers=st.just(layers),
            attention_bias=st.booleans(),
            sliding_window=st.sampled_from([1, 3, 5, 64]),
            layer_types=st.none() | st.lists(st.sampled_from(kinds), min_size=layers, max_size=layers),
            eos_token_id=st.just(1),
        )
    )
    # transformers reads `truncate` beside the types of layers only.
    rope = {kind: draw(ropes(keys["head_dim"])) for kind in kinds}
    return keys | {
        "rope_parameters": {kind: {k: v for k, v in rope[kind].items() if k != "truncate"} for kind in kinds}
    }


ROWS = {"olmo3": decoder(transformers.Olmo3Config, transformers.Olmo3ForCausalLM, _olmo3())}

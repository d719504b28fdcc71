"""Phi-3."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import CONTEXT, IDS, decoder, ropes, sizes


@st.composite
def phi3(draw: st.DrawFn) -> dict[str, Any]:
    """Heads are their share of the width, of which a part may be turned: 3 of 12 and 6 of 24 too."""
    size, share = draw(st.sampled_from([(8, 1.0), (8, 0.5), (12, 0.25), (24, 0.75), (20, 0.3)]))
    keys = draw(sizes(sliding_window=st.sampled_from([None, 1, 3, 5, 64])))
    keys["hidden_size"] = size * keys["num_attention_heads"]
    del keys["head_dim"]
    turned = int(size * share)
    rope = draw(ropes(turned, "default longrope" if turned % 2 == 0 else "default"))
    inside = draw(st.booleans())
    (rope if inside else keys)["partial_rotary_factor"] = share
    trained = rope.pop("original_max_position_embeddings", 64)
    keys |= {"rope_parameters": rope, "original_max_position_embeddings": trained}
    return keys | IDS | {"max_position_embeddings": draw(st.sampled_from([CONTEXT, 12]))}


ROWS = {"phi3": decoder(transformers.Phi3Config, transformers.Phi3ForCausalLM, phi3())}

"""MiniMax-M2."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .glm4_moe import choice_biases
from .kit import decoder, ropes, sizes
from .mixtral import EAGER


@st.composite
def _minimax_m2(draw: st.DrawFn) -> dict[str, Any]:
    """A part of each head may be rotated: stated as a number of elements, or as their share."""
    keys = draw(
        sizes(
            num_local_experts=st.integers(3, 5),
            num_experts_per_tok=st.integers(1, 3),
            bos_token_id=st.just(1),
            eos_token_id=st.just(2),
            experts_implementation=EAGER,
        )
    )
    size, dims = draw(st.sampled_from([(8, 8), (16, 8), (16, 12)]))
    stated = draw(st.sampled_from(["rotary_dim", "partial_rotary_factor"]))
    rope = draw(ropes(dims))
    if stated == "partial_rotary_factor":
        return keys | {"head_dim": size, "rope_parameters": rope | {stated: dims / size}}
    return keys | {"head_dim": size, "rope_parameters": rope, "rotary_dim": dims}


ROWS = {
    "minimax_m2": decoder(
        transformers.MiniMaxM2Config, transformers.MiniMaxM2ForCausalLM, _minimax_m2(), amend=choice_biases
    )
}

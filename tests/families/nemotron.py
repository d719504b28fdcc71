"""Nemotron and Minitron."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, decoder, ropes, sizes


@st.composite
def _nemotron(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(
        sizes(
            head_dim=st.sampled_from([8, 16]),
            attention_bias=st.booleans(),
            mlp_bias=st.booleans(),
            hidden_act=ACTIVATIONS,
            norm_eps=st.sampled_from([1e-5, 1e-2]),
        )
    )
    del keys["rms_norm_eps"]
    share = draw(st.sampled_from([0.5, 0.75, 1.0]))
    rope = draw(ropes(int(keys["head_dim"] * share)))
    return keys | {"rope_parameters": rope | {"partial_rotary_factor": share}, "eos_token_id": 3}


ROWS = {"nemotron": decoder(transformers.NemotronConfig, transformers.NemotronForCausalLM, _nemotron())}

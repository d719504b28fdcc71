"""Jais 2."""

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, decoder, sizes

ROWS = {
    "jais2": decoder(
        transformers.Jais2Config,
        transformers.Jais2ForCausalLM,
        sizes(
            attention_bias=st.booleans(),
            mlp_bias=st.booleans(),
            hidden_act=ACTIVATIONS,
            layer_norm_eps=st.sampled_from([1e-5, 1e-2]),
        ).map(
            lambda keys: (
                {key: value for key, value in keys.items() if key != "rms_norm_eps"} | {"eos_token_id": 3}
            )
        ),
    )
}

"""Cohere's Command R."""

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes

KEYS = sizes(
    attention_bias=st.booleans(),
    eos_token_id=st.just(1),
    use_qk_norm=st.booleans(),
    logit_scale=st.sampled_from([0.0625, 1.0, 3.0]),
    layer_norm_eps=st.sampled_from([1e-5, 1e-2]),
).map(lambda keys: {key: value for key, value in keys.items() if key != "rms_norm_eps"})
ROWS = {"cohere": decoder(transformers.CohereConfig, transformers.CohereForCausalLM, KEYS)}

"""OLMo 1."""

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes

ROWS = {
    "olmo": decoder(
        transformers.OlmoConfig,
        transformers.OlmoForCausalLM,
        sizes(
            attention_bias=st.booleans(), clip_qkv=st.sampled_from([None, 0.5, 8.0]), eos_token_id=st.just(1)
        ).map(lambda keys: {key: value for key, value in keys.items() if key != "rms_norm_eps"}),
    )
}

"""OLMo 2."""

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes

ROWS = {
    "olmo2": decoder(
        transformers.Olmo2Config,
        transformers.Olmo2ForCausalLM,
        sizes(attention_bias=st.booleans(), eos_token_id=st.just(1)),
    )
}

"""ERNIE 4.5."""

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes

ROWS = {
    "ernie4_5": decoder(
        transformers.Ernie4_5Config,
        transformers.Ernie4_5ForCausalLM,
        sizes(use_bias=st.booleans(), eos_token_id=st.just(2)),
    )
}

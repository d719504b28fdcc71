"""OLMo 2."""

import transformers
from hypothesis import strategies as st

from .kit import Row, sizes

ROWS = {
    "olmo2": Row(
        transformers.Olmo2Config,
        (transformers.Olmo2ForCausalLM,),
        sizes(attention_bias=st.booleans(), eos_token_id=st.just(1)),
    )
}

"""InternLM 3."""

import transformers
from hypothesis import strategies as st

from .kit import decoder, sizes

ROWS = {
    "internlm3": decoder(
        transformers.InternLM3Config,
        transformers.LlamaForCausalLM,
        st.booleans().flatmap(lambda bias: sizes(attention_bias=st.just(bias), mlp_bias=st.just(bias))),
    )
}

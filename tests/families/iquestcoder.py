"""IQuest-Coder."""

import transformers
from hypothesis import strategies as st

from .kit import SIZES, decoder, sizes

ROWS = {
    "iquestcoder": decoder(
        transformers.IQuestCoderConfig,
        transformers.LlamaForCausalLM,
        sizes(attention_bias=st.booleans(), mlp_bias=st.booleans()),
        {**SIZES, "num_attention_heads": 16},
    )
}

"""EXAONE 3."""

import transformers
from hypothesis import strategies as st

from .kit import IDS, decoder, sizes

ROWS = {
    "exaone": decoder(
        transformers.ExaoneConfig,
        transformers.LlamaForCausalLM,
        sizes(attention_bias=st.booleans(), mlp_bias=st.booleans()).map(IDS.__or__),
    )
}

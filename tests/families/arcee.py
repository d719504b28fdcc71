"""Arcee's AFM."""

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, IDS, decoder, sizes

ROWS = {
    "arcee": decoder(
        transformers.ArceeConfig,
        transformers.ArceeForCausalLM,
        sizes(attention_bias=st.booleans(), mlp_bias=st.booleans(), hidden_act=ACTIVATIONS).map(
            lambda keys: keys | IDS
        ),
    )
}

"""Helium 1."""

import transformers
from hypothesis import strategies as st

from .kit import IDS, SIZES, decoder, sizes

# Heads have their share of the width: the output's matrix is square.
ROWS = {
    "helium": decoder(
        transformers.HeliumConfig,
        transformers.HeliumForCausalLM,
        sizes(attention_bias=st.booleans(), mlp_bias=st.booleans()).map(
            lambda keys: keys | IDS | {"hidden_size": keys["num_attention_heads"] * keys["head_dim"]}
        ),
        {**SIZES, "hidden_size": 2560, "num_attention_heads": 20},
    )
}

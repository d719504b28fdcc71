"""Seed-OSS."""

import transformers
from hypothesis import strategies as st

from .kit import SIZES, decoder, sizes

ROWS = {
    "seed_oss": decoder(
        transformers.SeedOssConfig,
        transformers.SeedOssForCausalLM,
        sizes(
            attention_bias=st.booleans(),
            attention_out_bias=st.booleans(),
            mlp_bias=st.booleans(),
            residual_dropout=st.just(0.1),
        ),
        {**SIZES, "num_attention_heads": 16},
    )
}

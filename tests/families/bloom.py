"""BLOOM."""

import operator

import transformers
from hypothesis import strategies as st
from torch.nn.functional import gelu
from transformers.models.bloom import modeling_bloom

from .kit import decoder, of_whole_heads

# There √(2/π) is written with eight digits.
modeling_bloom.bloom_gelu_forward = lambda x: gelu(x, approximate="tanh")


ROWS = {
    "bloom": decoder(
        transformers.BloomConfig,
        transformers.BloomForCausalLM,
        st.builds(
            operator.or_,
            of_whole_heads(
                "hidden_size",
                "n_head",
                [1, 3, 4, 6],
                n_layer=[1, 2],
                layer_norm_epsilon=[1e-5, 1e-2],
                apply_residual_connection_post_layernorm=st.booleans(),
                tie_word_embeddings=st.booleans(),
            ),
            st.sampled_from([{}, {"pretraining_tp": 3}, {"slow_but_exact": True}]),
        ),
        {"vocab_size": 50, "hidden_size": 64, "n_layer": 2, "n_head": 8},
    )
}

"""GPT."""

import transformers
from hypothesis import strategies as st

from .kit import decoder, of_whole_heads

ROWS = {
    "openai-gpt": decoder(
        transformers.OpenAIGPTConfig,
        transformers.OpenAIGPTLMHeadModel,
        of_whole_heads(
            "n_embd",
            "n_head",
            n_layer=[1, 3],
            n_positions=[20, 64],
            afn=["gelu", "relu", "silu", "swish"],
            layer_norm_epsilon=[1e-5, 1e-2],
            tie_word_embeddings=st.booleans(),
        ),
        {"vocab_size": 50, "n_embd": 64, "n_layer": 2, "n_head": 8},
    )
}

"""BioGPT."""

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, decoder, of_whole_heads

ROWS = {
    "biogpt": decoder(
        transformers.BioGptConfig,
        transformers.BioGptForCausalLM,
        of_whole_heads(
            "hidden_size",
            "num_attention_heads",
            intermediate_size=[7, 24],
            num_hidden_layers=[1, 3],
            max_position_embeddings=[20, 64],
            hidden_act=ACTIVATIONS,
            layer_norm_eps=[1e-12, 1e-2],
            scale_embedding=st.booleans(),
            tie_word_embeddings=st.booleans(),
        ),
    )
}

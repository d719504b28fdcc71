"""GPT-BigCode: SantaCoder and StarCoder."""

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, decoder, of_whole_heads

ROWS = {
    "gpt_bigcode": decoder(
        transformers.GPTBigCodeConfig,
        transformers.GPTBigCodeForCausalLM,
        of_whole_heads(
            "n_embd",
            "n_head",
            n_inner=[None, 7, 24],
            n_layer=[1, 3],
            n_positions=[12, 64],
            multi_query=st.booleans(),
            activation_function=ACTIVATIONS,
            layer_norm_epsilon=[1e-5, 1e-2],
            scale_attn_weights=st.booleans(),
            tie_word_embeddings=st.booleans(),
            bos_token_id=3,
            eos_token_id=4,
        ),
        {"vocab_size": 50, "n_embd": 64, "n_layer": 2, "n_head": 8},
    )
}

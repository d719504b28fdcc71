"""OPT."""

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, decoder, of_whole_heads

ROWS = {
    "opt": decoder(
        transformers.OPTConfig,
        transformers.OPTForCausalLM,
        of_whole_heads(
            "hidden_size",
            "num_attention_heads",
            ffn_dim=[7, 24],
            num_hidden_layers=[1, 2],
            max_position_embeddings=[12, 64],
            activation_function=ACTIVATIONS,
            do_layer_norm_before=st.booleans(),
            _remove_final_layer_norm=st.booleans(),
            word_embed_proj_dim=[None, 6, 31],
            enable_bias=st.booleans(),
            layer_norm_elementwise_affine=st.booleans(),
            tie_word_embeddings=st.booleans(),
        ),
        {
            "vocab_size": 50,
            "hidden_size": 64,
            "ffn_dim": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 8,
        },
    )
}

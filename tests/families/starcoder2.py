"""StarCoder 2."""

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, IDS, decoder, sizes

ROWS = {
    "starcoder2": decoder(
        transformers.Starcoder2Config,
        transformers.Starcoder2ForCausalLM,
        sizes(
            hidden_act=ACTIVATIONS,
            norm_epsilon=st.sampled_from([1e-5, 1e-2]),
            sliding_window=st.sampled_from([None, 1, 3, 5, 64]),
            use_bias=st.booleans(),
        ).map(lambda keys: {key: value for key, value in keys.items() if key != "rms_norm_eps"} | IDS),
    )
}

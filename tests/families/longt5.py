"""LongT5 in both forms: windows and blocks shorter than a text of 12 tokens, and longer ones."""

import transformers
from hypothesis import strategies as st

from .kit import Row
from .t5 import SIZES, t5, untied

WRITES = transformers.LongT5ForConditionalGeneration
ROWS = {
    "longt5": Row(
        transformers.LongT5Config,
        (WRITES, untied(WRITES), transformers.LongT5EncoderModel),
        t5(
            tie_word_embeddings=st.booleans(),
            local_radius=st.sampled_from([1, 2, 5, 14]),
            global_block_size=st.sampled_from([4, 2, 1, 16]),
            encoder_attention_type=st.sampled_from(["transient-global", "local"]),
        ),
        SIZES,
        stays=False,
    )
}

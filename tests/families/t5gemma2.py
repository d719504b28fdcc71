"""T5Gemma 2's text part: an encoder and a decoder of Gemma 3's layers, of other depths and heads."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .gemma3 import text_keys
from .kit import SIZES, Row

VISION = {
    "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1,
    "image_size": 4, "patch_size": 2, "model_type": "siglip_vision_model",
}  # fmt: skip


@st.composite
def both(draw: st.DrawFn) -> dict[str, Any]:
    """Two parts with a width that is a multiple of any number of heads. All other sizes are drawn apart."""
    text, decoder = draw(text_keys()), draw(text_keys())
    for keys in (text, decoder):
        keys |= {"hidden_size": 36, "pad_token_id": 0}
        # An even one reaches farther to one side in the encoder.
        keys["sliding_window"] = draw(st.sampled_from([1, 2, 4, 5, 64]))
        del keys["tie_word_embeddings"]
    end = draw(st.integers(0, text["vocab_size"] - 1) | st.just(256_000))
    images = {"vision_config": VISION, "mm_tokens_per_image": 4}
    return {
        "encoder": {"text_config": text, "eoi_token_index": end, **images},
        "decoder": decoder,
        "tie_word_embeddings": draw(st.booleans()),
    }


ROWS = {
    "t5gemma2": Row(
        transformers.T5Gemma2Config,
        (transformers.T5Gemma2ForConditionalGeneration,),
        both(),
        {"encoder": {"text_config": SIZES}, "decoder": SIZES},
    )
}

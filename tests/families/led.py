"""LED, with windows shorter than a text of 12 tokens and longer ones, each layer's its own.

The encoder has positions for a text that transformers has padded to a multiple of the widest window.
"""

from typing import Any

import transformers
from hypothesis import strategies as st

from .bart import SIZES, amend, pairs
from .kit import Row


@st.composite
def _led(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(pairs())
    del keys["max_position_embeddings"], keys["scale_embedding"]
    windows, layers = st.sampled_from([4, 8, 16]), keys["encoder_layers"]
    return keys | {
        "attention_window": draw(windows | st.lists(windows, min_size=layers, max_size=layers)),
        "max_encoder_position_embeddings": draw(st.sampled_from([16, 64])),
        "max_decoder_position_embeddings": draw(st.sampled_from([12, 16, 40])),
    }


ROWS = {
    "led": Row(
        transformers.LEDConfig,
        (transformers.LEDForConditionalGeneration, transformers.LEDForQuestionAnswering),
        _led(),
        SIZES,
        amend=amend,
    )
}

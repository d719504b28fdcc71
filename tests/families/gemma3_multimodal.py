"""Gemma 3 with a vision tower."""

import operator

import transformers
from hypothesis import strategies as st

from .gemma3 import text_keys
from .kit import SIZES, Row, labelled, wrapped
from .llava import SIGLIP

# A cap of logits is refused, as the class has none.
KEYS = text_keys().map(lambda keys: {**keys, "final_logit_softcapping": None})
ROWS = {
    "gemma3": Row(
        transformers.Gemma3Config,
        (
            transformers.Gemma3ForConditionalGeneration,
            transformers.Gemma3Model,
            transformers.Gemma3ForSequenceClassification,
        ),
        st.builds(operator.or_, wrapped(KEYS, SIGLIP), labelled()),
        {"text_config": SIZES, "vision_config": SIGLIP},
    )
}

"""ModernBERT's decoder."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import SIZES, Row
from .modernbert import modernbert


@st.composite
def _causal(draw: st.DrawFn) -> dict[str, Any]:
    """ModernBERT's keys; the last token's vector is the text's, and a window reaches back half as far."""
    keys = draw(modernbert())
    del keys["classifier_pooling"]
    return keys | {"local_attention": draw(st.sampled_from([2, 5, 8, 64]))}


ROWS = {
    "modernbert-decoder": Row(
        transformers.ModernBertDecoderConfig,
        (
            transformers.ModernBertDecoderForCausalLM,
            transformers.ModernBertDecoderModel,
            transformers.ModernBertDecoderForSequenceClassification,
        ),
        _causal(),
        SIZES,
    )
}

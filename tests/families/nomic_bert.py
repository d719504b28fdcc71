"""Nomic BERT."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .bert import bert, tie
from .kit import CONTEXT, Row, ropes


@st.composite
def rotated(draw: st.DrawFn, **more: st.SearchStrategy[Any]) -> dict[str, Any]:
    """BERT's keys with rotary positions in the place of a table."""
    keys = draw(bert(**more))
    size = draw(st.sampled_from([4, 10, 32]))
    keys["hidden_size"] = keys["num_attention_heads"] * size
    # Texts are as long as that, and `dynamic` changes nothing within it.
    keys["max_position_embeddings"] = CONTEXT
    return keys | {"rope_parameters": draw(ropes(size, "default linear dynamic yarn llama3"))}


ROWS = {
    "nomic_bert": Row(
        transformers.NomicBertConfig,
        (
            transformers.NomicBertModel,
            transformers.NomicBertForMaskedLM,
            transformers.NomicBertForSequenceClassification,
            transformers.NomicBertForTokenClassification,
        ),
        rotated(),
        amend=tie,
    )
}

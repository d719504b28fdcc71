"""DistilBERT."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, Row, labelled


@st.composite
def _distilbert(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 2, 3]))
    return {
        "vocab_size": 61,
        "dim": heads * draw(st.sampled_from([4, 9, 32])),
        "hidden_dim": draw(st.sampled_from([7, 24])),
        "n_layers": draw(st.sampled_from([1, 2])),
        "n_heads": heads,
        "activation": draw(ACTIVATIONS),
        "max_position_embeddings": draw(st.sampled_from([20, 128])),
        "sinusoidal_pos_embds": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        **draw(labelled()),
    }


ROWS = {
    "distilbert": Row(
        transformers.DistilBertConfig,
        (
            transformers.DistilBertModel,
            transformers.DistilBertForMaskedLM,
            transformers.DistilBertForSequenceClassification,
            transformers.DistilBertForTokenClassification,
            transformers.DistilBertForQuestionAnswering,
        ),
        _distilbert(),
        {"vocab_size": 50, "dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 8},
    )
}

"""DistilBERT."""

import operator

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, Row, labelled, of_whole_heads

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
        st.builds(
            operator.or_,
            of_whole_heads(
                "dim",
                "n_heads",
                [1, 2, 3],
                [4, 9, 32],
                hidden_dim=[7, 24],
                n_layers=[1, 2],
                activation=ACTIVATIONS,
                max_position_embeddings=[20, 128],
                sinusoidal_pos_embds=st.booleans(),
                tie_word_embeddings=st.booleans(),
            ),
            labelled(),
        ),
        {"vocab_size": 50, "dim": 64, "hidden_dim": 96, "n_layers": 2, "n_heads": 8},
    )
}

"""ALBERT."""

import transformers
from hypothesis import strategies as st

from .bert import bert
from .kit import Row


def tie(model: object) -> None:
    """One output bias under both of its names: transformers ties them only where tables are tied."""
    head = getattr(model, "predictions", None)
    if head is not None:
        head.bias.copy_(head.decoder.bias)


ROWS = {
    "albert": Row(
        transformers.AlbertConfig,
        (
            transformers.AlbertModel,
            transformers.AlbertForMaskedLM,
            transformers.AlbertForPreTraining,
            transformers.AlbertForSequenceClassification,
            transformers.AlbertForTokenClassification,
            transformers.AlbertForQuestionAnswering,
        ),
        bert(embedding_size=st.sampled_from([4, 9, 32]), num_hidden_layers=st.sampled_from([1, 3])),
        amend=tie,
    )
}

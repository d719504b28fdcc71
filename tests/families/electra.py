"""ELECTRA."""

import transformers
from hypothesis import strategies as st

from .bert import bert
from .kit import Row

ROWS = {
    "electra": Row(
        transformers.ElectraConfig,
        (
            transformers.ElectraModel,
            transformers.ElectraForMaskedLM,
            transformers.ElectraForSequenceClassification,
            transformers.ElectraForTokenClassification,
            transformers.ElectraForQuestionAnswering,
        ),
        bert(embedding_size=st.sampled_from([4, 9, 32])),
    )
}

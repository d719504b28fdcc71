"""ERNIE."""

import transformers
from hypothesis import strategies as st

from .bert import bert, tie
from .kit import Row

ROWS = {
    "ernie": Row(
        transformers.ErnieConfig,
        (
            transformers.ErnieModel,
            transformers.ErnieForMaskedLM,
            transformers.ErnieForPreTraining,
            transformers.ErnieForSequenceClassification,
            transformers.ErnieForTokenClassification,
            transformers.ErnieForQuestionAnswering,
        ),
        bert(use_task_id=st.booleans(), task_type_vocab_size=st.sampled_from([1, 3, 16])),
        amend=tie,
    )
}

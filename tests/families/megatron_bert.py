"""Megatron's BERT."""

import transformers

from .bert import bert, tie
from .kit import Row

ROWS = {
    "megatron-bert": Row(
        transformers.MegatronBertConfig,
        (
            transformers.MegatronBertModel,
            transformers.MegatronBertForMaskedLM,
            transformers.MegatronBertForPreTraining,
            transformers.MegatronBertForSequenceClassification,
            transformers.MegatronBertForTokenClassification,
            transformers.MegatronBertForQuestionAnswering,
        ),
        bert(),
        amend=tie,
    )
}

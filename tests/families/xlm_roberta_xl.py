"""XLM-RoBERTa XL."""

import transformers

from .bert import tie
from .kit import Row
from .roberta import KEYS

ROWS = {
    "xlm-roberta-xl": Row(
        transformers.XLMRobertaXLConfig,
        (
            transformers.XLMRobertaXLModel,
            transformers.XLMRobertaXLForMaskedLM,
            transformers.XLMRobertaXLForSequenceClassification,
            transformers.XLMRobertaXLForTokenClassification,
            transformers.XLMRobertaXLForQuestionAnswering,
        ),
        KEYS,
        reads=frozenset({"pad_token_id"}),
        amend=tie,
    )
}

"""data2vec's model of text."""

import transformers

from .bert import tie
from .kit import Row
from .roberta import KEYS

ROWS = {
    "data2vec-text": Row(
        transformers.Data2VecTextConfig,
        (
            transformers.Data2VecTextModel,
            transformers.Data2VecTextForMaskedLM,
            transformers.Data2VecTextForSequenceClassification,
            transformers.Data2VecTextForTokenClassification,
            transformers.Data2VecTextForQuestionAnswering,
        ),
        KEYS,
        reads=frozenset({"pad_token_id"}),
        amend=tie,
    )
}

"""RoBERTa with norms before sublayers."""

import transformers

from .bert import tie
from .kit import Row
from .roberta import KEYS

ROWS = {
    "roberta-prelayernorm": Row(
        transformers.RobertaPreLayerNormConfig,
        (
            transformers.RobertaPreLayerNormModel,
            transformers.RobertaPreLayerNormForMaskedLM,
            transformers.RobertaPreLayerNormForSequenceClassification,
            transformers.RobertaPreLayerNormForTokenClassification,
            transformers.RobertaPreLayerNormForQuestionAnswering,
        ),
        KEYS,
        reads=frozenset({"pad_token_id"}),
        amend=tie,
    )
}

"""RoBERTa, XLM-RoBERTa and CamemBERT: the same model under three names."""

import transformers
from hypothesis import strategies as st

from .bert import bert, tie
from .kit import Row

KEYS = bert(pad_token_id=st.sampled_from([0, 1, 5]))
ROWS = {
    "roberta": Row(
        transformers.RobertaConfig,
        (
            transformers.RobertaModel,
            transformers.RobertaForMaskedLM,
            transformers.RobertaForSequenceClassification,
            transformers.RobertaForTokenClassification,
            transformers.RobertaForQuestionAnswering,
        ),
        KEYS,
        reads=frozenset({"pad_token_id"}),
        amend=tie,
    ),
    "xlm-roberta": Row(
        transformers.XLMRobertaConfig,
        (
            transformers.XLMRobertaModel,
            transformers.XLMRobertaForMaskedLM,
            transformers.XLMRobertaForSequenceClassification,
            transformers.XLMRobertaForTokenClassification,
            transformers.XLMRobertaForQuestionAnswering,
        ),
        KEYS,
        reads=frozenset({"pad_token_id"}),
        amend=tie,
    ),
    "camembert": Row(
        transformers.CamembertConfig,
        (
            transformers.CamembertModel,
            transformers.CamembertForMaskedLM,
            transformers.CamembertForSequenceClassification,
            transformers.CamembertForTokenClassification,
            transformers.CamembertForQuestionAnswering,
        ),
        KEYS,
        reads=frozenset({"pad_token_id"}),
        amend=tie,
    ),
}

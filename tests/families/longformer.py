"""Longformer, with windows shorter than a text of 12 tokens and longer ones.

transformers has none of 2, and no widest window that another doesn't divide.
"""

from typing import Any

import transformers
from hypothesis import strategies as st

from .bert import bert, tie
from .kit import Row


@st.composite
def _longformer(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(bert(pad_token_id=st.sampled_from([0, 1, 5]), sep_token_id=st.sampled_from([2, 60])))
    windows = st.sampled_from([4, 8, 16])
    layers = keys["num_hidden_layers"]
    return keys | {"attention_window": draw(windows | st.lists(windows, min_size=layers, max_size=layers))}


ROWS = {
    "longformer": Row(
        transformers.LongformerConfig,
        (
            transformers.LongformerModel,
            transformers.LongformerForMaskedLM,
            transformers.LongformerForSequenceClassification,
            transformers.LongformerForTokenClassification,
            transformers.LongformerForQuestionAnswering,
        ),
        _longformer(),
        reads=frozenset({"pad_token_id"}),
        amend=tie,
    )
}

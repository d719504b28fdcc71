"""MPNet."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .bert import bert, tie
from .kit import Row


@st.composite
def _mpnet(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(bert())
    del keys["type_vocab_size"]
    # Positions leave out token 1, whatever the padding is; texts of the tests have none.
    return keys | {"relative_attention_num_buckets": 32, "pad_token_id": 1}


ROWS = {
    "mpnet": Row(
        transformers.MPNetConfig,
        (
            transformers.MPNetModel,
            transformers.MPNetForMaskedLM,
            transformers.MPNetForSequenceClassification,
            transformers.MPNetForTokenClassification,
            transformers.MPNetForQuestionAnswering,
        ),
        _mpnet(),
        amend=tie,
    )
}

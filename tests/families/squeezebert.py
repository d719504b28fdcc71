"""SqueezeBERT."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .bert import bert, tie
from .kit import SIZES, Row


@st.composite
def _squeezebert(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(bert(intermediate_size=st.sampled_from([8, 20])))
    width = keys["num_attention_heads"] * draw(st.sampled_from([4, 12, 20]))
    return keys | {"hidden_size": width, "embedding_size": width}


ROWS = {
    "squeezebert": Row(
        transformers.SqueezeBertConfig,
        (
            transformers.SqueezeBertModel,
            transformers.SqueezeBertForMaskedLM,
            transformers.SqueezeBertForSequenceClassification,
            transformers.SqueezeBertForTokenClassification,
            transformers.SqueezeBertForQuestionAnswering,
        ),
        _squeezebert(),
        {**SIZES, "embedding_size": SIZES["hidden_size"]},
        amend=tie,
    )
}

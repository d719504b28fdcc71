"""ConvBERT: kernels longer and shorter than texts, one head where the ratio leaves none, groups in mlps."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .bert import bert
from .kit import Row


@st.composite
def _convbert(draw: st.DrawFn) -> dict[str, Any]:
    groups, count, ratio = (draw(st.sampled_from(some)) for some in ([1, 2, 3], [2, 1, 5, 6], [2, 1, 3]))
    heads = max(count // ratio, 1)
    return draw(bert()) | {
        "hidden_size": 2 * heads * groups * draw(st.sampled_from([1, 2, 5])),
        "num_attention_heads": count,
        "head_ratio": ratio,
        "num_groups": groups,
        "intermediate_size": groups * draw(st.sampled_from([3, 8])),
        "conv_kernel_size": draw(st.sampled_from([3, 5, 9, 29])),
        "embedding_size": draw(st.sampled_from([4, 9, 30])),
        "pad_token_id": 0,
    }


# transformers' convolutions read what a batch pads with.
ROWS = {
    "convbert": Row(
        transformers.ConvBertConfig,
        (
            transformers.ConvBertModel,
            transformers.ConvBertForMaskedLM,
            transformers.ConvBertForSequenceClassification,
            transformers.ConvBertForTokenClassification,
            transformers.ConvBertForQuestionAnswering,
        ),
        _convbert(),
        alone=True,
    )
}

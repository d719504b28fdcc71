"""MobileBERT: one mlp and several, with and without trigrams, narrow queries of their own, and norms."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .bert import bert, tie
from .kit import Row


@st.composite
def _mobilebert(draw: st.DrawFn) -> dict[str, Any]:
    shared, heads = draw(st.booleans()), draw(st.sampled_from([2, 1, 3]))
    drawn = {
        "hidden_size": [30, 12, 33],
        "embedding_size": [9, 12, 7],
        "num_feedforward_networks": [3, 1, 2],
        "trigram_input": [True, False],
        "normalization_type": ["no_norm", "layer_norm"],
        "classifier_activation": [True, False],
        "key_query_shared_bottleneck": [True] if shared else [True, False],
    }
    return draw(bert()) | {
        "num_attention_heads": heads,
        "intra_bottleneck_size": heads * draw(st.sampled_from([4, 7])),
        "use_bottleneck_attention": not shared,
        "pad_token_id": 0,
        **{key: draw(st.sampled_from(some)) for key, some in drawn.items()},
    }


# transformers' trigrams read what a batch pads with.
ROWS = {
    "mobilebert": Row(
        transformers.MobileBertConfig,
        (
            transformers.MobileBertModel,
            transformers.MobileBertForMaskedLM,
            transformers.MobileBertForPreTraining,
            transformers.MobileBertForSequenceClassification,
            transformers.MobileBertForTokenClassification,
            transformers.MobileBertForQuestionAnswering,
        ),
        _mobilebert(),
        alone=True,
        amend=tie,
    )
}

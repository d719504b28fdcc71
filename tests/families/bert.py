"""BERT."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, Row, labelled


@st.composite
def bert(draw: st.DrawFn, **more: st.SearchStrategy[Any]) -> dict[str, Any]:
    """The keys that BERT, RoBERTa and ELECTRA share."""
    heads = draw(st.sampled_from([1, 2, 3]))
    return {
        "vocab_size": 61,
        "hidden_size": heads * draw(st.sampled_from([4, 9, 32])),
        "intermediate_size": draw(st.sampled_from([7, 24])),
        "num_hidden_layers": draw(st.sampled_from([1, 2])),
        "num_attention_heads": heads,
        "hidden_act": draw(ACTIVATIONS),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-2])),
        "max_position_embeddings": draw(st.sampled_from([20, 128])),
        "type_vocab_size": draw(st.sampled_from([1, 2, 5])),
        "tie_word_embeddings": draw(st.booleans()),
        **draw(labelled()),
        **{key: draw(strategy) for key, strategy in more.items()},
    }


def tie(model: Any) -> None:
    """One output bias under both of its names: transformers ties them only where tables are tied."""
    head = (
        model.lm_head
        if hasattr(model, "lm_head")
        else model.cls.predictions
        if hasattr(model, "cls")
        else None
    )
    if head is not None:
        head.bias.copy_(head.decoder.bias)


ROWS = {
    "bert": Row(
        transformers.BertConfig,
        (
            transformers.BertModel,
            transformers.BertForMaskedLM,
            transformers.BertForPreTraining,
            transformers.BertForSequenceClassification,
            transformers.BertForTokenClassification,
            transformers.BertForQuestionAnswering,
        ),
        bert(),
        amend=tie,
    )
}

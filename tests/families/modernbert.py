"""ModernBERT."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, CONTEXT, Row, labelled, ropes


@st.composite
def modernbert(draw: st.DrawFn) -> dict[str, Any]:
    """The keys of layers and heads."""
    heads, size, layers = (draw(st.sampled_from(sizes)) for sizes in ([1, 2, 3], [4, 10, 32], [1, 2, 4]))
    kinds = ("full_attention", "sliding_attention")
    keys = {
        "vocab_size": 61,
        "hidden_size": heads * size,
        "intermediate_size": draw(st.sampled_from([7, 24])),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_activation": draw(ACTIVATIONS),
        "norm_eps": draw(st.sampled_from([1e-6, 1e-2])),
        "max_position_embeddings": CONTEXT,
        "local_attention": draw(st.sampled_from([1, 2, 5, 8, 64])),
        "classifier_pooling": draw(st.sampled_from(["cls", "mean"])),
        "classifier_activation": draw(ACTIVATIONS),
        **{f"{key}_token_id": draw(st.sampled_from([0, 60])) for key in ("pad", "bos", "eos", "cls", "sep")},
        **draw(labelled()),
    }
    biases = ("norm_bias", "attention_bias", "mlp_bias", "decoder_bias", "classifier_bias")
    keys |= {key: draw(st.booleans()) for key in (*biases, "tie_word_embeddings")}
    if draw(st.booleans()):
        keys["layer_types"] = draw(st.lists(st.sampled_from(kinds), min_size=layers, max_size=layers))
    else:
        keys["global_attn_every_n_layers"] = draw(st.sampled_from([1, 2, 3]))
    if draw(st.booleans()):
        rope_kinds = ropes(size, "default linear dynamic llama3")
        return keys | {"rope_parameters": {kind: draw(rope_kinds) for kind in kinds}}
    return keys | {"global_rope_theta": draw(st.sampled_from([100.0, 5e5])), "local_rope_theta": 1e4}


ROWS = {
    "modernbert": Row(
        transformers.ModernBertConfig,
        (
            transformers.ModernBertModel,
            transformers.ModernBertForMaskedLM,
            transformers.ModernBertForSequenceClassification,
            transformers.ModernBertForTokenClassification,
            transformers.ModernBertForQuestionAnswering,
        ),
        modernbert(),
    )
}

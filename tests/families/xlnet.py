"""XLNet, with distances that are clamped within a text of 12 tokens, and summaries of all kinds."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import ACTIVATIONS, Row, labelled


@st.composite
def _xlnet(draw: st.DrawFn) -> dict[str, Any]:
    heads = draw(st.sampled_from([1, 2, 3]))
    mapped = draw(st.sampled_from([True, True, False]))
    return draw(labelled()) | {
        "vocab_size": 61,
        "d_model": heads * draw(st.sampled_from([4, 10])),
        "n_layer": draw(st.sampled_from([1, 2])),
        "n_head": heads,
        "d_inner": draw(st.sampled_from([7, 24])),
        "ff_activation": draw(ACTIVATIONS),
        "layer_norm_eps": draw(st.sampled_from([1e-12, 1e-2])),
        "clamp_len": draw(st.sampled_from([-1, 0, 1, 5, 20])),
        "mem_len": draw(st.sampled_from([None, 3])),
        "reuse_len": draw(st.sampled_from([None, 2])),
        "summary_type": draw(st.sampled_from(["last", "first", "mean", "cls_index"])),
        "summary_use_proj": mapped,
        "summary_activation": draw(st.sampled_from(["tanh", "gelu", ""] if mapped else [""])),
    }


ROWS = {
    "xlnet": Row(
        transformers.XLNetConfig,
        (
            transformers.XLNetModel,
            transformers.XLNetForSequenceClassification,
            transformers.XLNetForTokenClassification,
            transformers.XLNetForQuestionAnsweringSimple,
        ),
        _xlnet(),
        {"vocab_size": 50, "d_model": 64, "d_inner": 96, "n_layer": 2, "n_head": 8},
        alone=True,
    )
}

"""ESM."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st

from .bert import bert
from .kit import SIZES, Row


@st.composite
def _esm(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(
        bert(
            position_embedding_type=st.sampled_from(["rotary", "absolute"]),
            emb_layer_norm_before=st.sampled_from([None, False, True]),
            token_dropout=st.booleans(),
            mask_token_id=st.sampled_from([2, 4]),
            pad_token_id=st.sampled_from([0, 1, 5]),
            rope_theta=st.sampled_from([100.0, 10_000.0]),
        )
    )
    for key in ("hidden_act", "type_vocab_size"):
        del keys[key]
    return keys | {"hidden_size": keys["num_attention_heads"] * draw(st.sampled_from([4, 10, 32]))}


def frequencies(model: Any) -> None:
    """Rotary frequencies in the model's precision: this class keeps them among its weights."""
    rotary = getattr(model, "esm", model).rotary_embeddings
    if rotary is not None:
        pairs = torch.arange(0, 2 * rotary.inv_freq.shape[0], 2, dtype=next(model.parameters()).dtype)
        rotary.inv_freq.copy_(model.config.rope_theta ** -(pairs / (2 * len(pairs))))


ROWS = {
    "esm": Row(
        transformers.EsmConfig,
        (
            transformers.EsmModel,
            transformers.EsmForMaskedLM,
            transformers.EsmForSequenceClassification,
            transformers.EsmForTokenClassification,
        ),
        _esm(),
        {**SIZES, "pad_token_id": 1},
        reads=frozenset({"pad_token_id"}),
        amend=frequencies,
    )
}

"""RoFormer."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st

from .bert import bert
from .bert import tie as tie_bias
from .kit import Row


@st.composite
def _roformer(draw: st.DrawFn) -> dict[str, Any]:
    keys = draw(bert(embedding_size=st.sampled_from([4, 9, 32, None])))
    return keys | {"hidden_size": keys["num_attention_heads"] * draw(st.sampled_from([4, 10, 32]))}


def tie(model: Any) -> None:
    """The output bias as BERT's, and the stored sines and cosines what they stand for, in float64 too."""
    tie_bias(model)
    table = next(weight for name, weight in model.named_parameters() if "embed_positions" in name)
    places, size = table.shape
    pairs = torch.arange(0, size, 2, dtype=torch.float64) / size
    angles = torch.arange(places, dtype=torch.float64)[:, None] * 10_000.0**-pairs
    table.copy_(torch.cat([angles.sin(), angles.cos()], dim=1))


ROWS = {
    "roformer": Row(
        transformers.RoFormerConfig,
        (
            transformers.RoFormerModel,
            transformers.RoFormerForMaskedLM,
            transformers.RoFormerForSequenceClassification,
            transformers.RoFormerForTokenClassification,
            transformers.RoFormerForQuestionAnswering,
        ),
        _roformer(),
        amend=tie,
    )
}

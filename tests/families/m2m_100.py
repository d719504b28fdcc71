"""M2M100."""

from typing import Any

import torch
import transformers
from hypothesis import strategies as st

from . import bart
from .kit import Row


def amend(model: Any) -> None:
    """As BART's; positions in float64, which the class computes in float32."""
    bart.amend(model)
    for side in (model.model.encoder, model.model.decoder):
        table, padding = side.embed_positions.weights, model.config.pad_token_id
        rows, pairs = table.shape[0], model.config.d_model // 2
        place = torch.arange(rows, dtype=torch.float64)[:, None]
        angles = place / 10_000 ** (torch.arange(pairs, dtype=torch.float64) / (pairs - 1))
        table.copy_(torch.cat([angles.sin(), angles.cos()], 1))
        table[padding] = 0


ROWS = {
    "m2m_100": Row(
        transformers.M2M100Config,
        (transformers.M2M100ForConditionalGeneration,),
        bart.pairs(
            pad_token_id=st.sampled_from([1, 0, 5]), max_position_embeddings=st.sampled_from([32, 64])
        ),
        bart.SIZES,
        amend=amend,
        reads=frozenset({"pad_token_id"}),
    )
}

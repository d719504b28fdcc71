"""Marian, and the positions that Pegasus has too."""

from typing import Any

import torch
import transformers

from . import bart
from .kit import Row


def amend(model: Any) -> None:
    """As BART's; positions are computed, not random, and not rounded to float32, as the class has them."""
    bart.amend(model)
    for side in (model.model.encoder, model.model.decoder):
        table = side.embed_positions.weight
        rows, width = table.shape
        place = torch.arange(rows, dtype=torch.float64)[:, None]
        angles = place / 10_000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
        table.copy_(torch.cat([angles.sin(), angles.cos()], 1))


ROWS = {
    "marian": Row(
        transformers.MarianConfig, (transformers.MarianMTModel,), bart.pairs(), bart.SIZES, amend=amend
    )
}

"""Blenderbot Small."""

from typing import Any

import transformers

from .bart import SIZES, amend, pairs
from .kit import Row


def scaled(model: Any) -> None:
    """`amend`, and the scale of the decoder's tokens, which transformers lost in version 5."""
    amend(model)
    table = model.model.decoder.embed_tokens
    if model.config.scale_embedding and not table._forward_hooks:
        table.register_forward_hook(lambda _, __, vectors: vectors * model.config.d_model**0.5)


ROWS = {
    "blenderbot-small": Row(
        transformers.BlenderbotSmallConfig,
        (transformers.BlenderbotSmallForConditionalGeneration,),
        pairs(),
        SIZES,
        amend=scaled,
    )
}

"""Blenderbot."""

import transformers

from .bart import SIZES, amend, pairs
from .kit import Row

ROWS = {
    "blenderbot": Row(
        transformers.BlenderbotConfig,
        (transformers.BlenderbotForConditionalGeneration,),
        pairs(),
        SIZES,
        amend=amend,
    )
}

"""Pegasus."""

import transformers

from .bart import SIZES, pairs
from .kit import Row
from .marian import amend

ROWS = {
    "pegasus": Row(
        transformers.PegasusConfig,
        (transformers.PegasusForConditionalGeneration,),
        pairs(),
        SIZES,
        amend=amend,
    )
}

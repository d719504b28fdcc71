"""mBART."""

import transformers

from .bart import SIZES, amend, pairs
from .kit import Row

ROWS = {
    "mbart": Row(
        transformers.MBartConfig, (transformers.MBartForConditionalGeneration,), pairs(), SIZES, amend=amend
    )
}

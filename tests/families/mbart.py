"""mBART."""

import operator

import transformers
from hypothesis import strategies as st

from .bart import SIZES, amend, pairs
from .kit import Row, labelled

ROWS = {
    "mbart": Row(
        transformers.MBartConfig,
        (
            transformers.MBartForConditionalGeneration,
            transformers.MBartForSequenceClassification,
            transformers.MBartForQuestionAnswering,
        ),
        st.builds(operator.or_, pairs(), labelled()),
        SIZES,
        amend=amend,
    )
}

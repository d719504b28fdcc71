"""BigBird, whose texts of 12 tokens are read in blocks of one token, and whole where blocks are longer."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .bert import bert, tie
from .kit import Row


@st.composite
def _big_bird(draw: st.DrawFn) -> dict[str, Any]:
    return draw(bert()) | {
        "use_bias": draw(st.booleans()),
        "rescale_embeddings": draw(st.booleans()),
        "attention_type": draw(st.sampled_from(["block_sparse", "original_full"])),
        "block_size": draw(st.sampled_from([3, 16, 1])),
        "num_random_blocks": draw(st.sampled_from([1, 3])),
        # No text has this separator: the logits of no question are lowered by 1e6.
        "sep_token_id": 99,
    }


ROWS = {
    "big_bird": Row(
        transformers.BigBirdConfig,
        (
            transformers.BigBirdModel,
            transformers.BigBirdForMaskedLM,
            transformers.BigBirdForPreTraining,
            transformers.BigBirdForSequenceClassification,
            transformers.BigBirdForTokenClassification,
            transformers.BigBirdForQuestionAnswering,
        ),
        _big_bird(),
        alone=True,
        amend=tie,
    )
}

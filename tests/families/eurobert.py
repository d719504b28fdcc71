"""EuroBERT."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import Row, labelled, sizes


@st.composite
def _eurobert(draw: st.DrawFn) -> dict[str, Any]:
    biases = {"attention_bias": st.booleans(), "mlp_bias": st.booleans()}
    keys = draw(sizes(**biases, classifier_pooling=st.sampled_from(["late", "mean", "bos"])))
    return keys | draw(labelled()) | {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


ROWS = {
    "eurobert": Row(
        transformers.EuroBertConfig,
        (
            transformers.EuroBertModel,
            transformers.EuroBertForMaskedLM,
            transformers.EuroBertForSequenceClassification,
            transformers.EuroBertForTokenClassification,
        ),
        _eurobert(),
    )
}

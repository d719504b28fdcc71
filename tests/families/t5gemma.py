"""T5Gemma: an encoder and a decoder of other sizes."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .gemma2 import sandwich
from .kit import SIZES, Row


@st.composite
def both(draw: st.DrawFn) -> dict[str, Any]:
    """Two parts with all sizes drawn apart."""
    part = st.integers(1, 3).flatmap(sandwich).map(lambda keys: {**keys, "pad_token_id": 0})
    sides = {side: draw(part) for side in ("encoder", "decoder")}
    for keys in sides.values():
        del keys["tie_word_embeddings"]
    return {**sides, "tie_word_embeddings": draw(st.booleans())}


def pair(model: Any) -> Any:
    """The class of the encoder alone, which wants a config that says so."""

    def build(self: Any, config: Any) -> None:
        config.is_encoder_decoder = False
        model.__init__(self, config)

    return type(model.__name__, (model,), {"__init__": build})


ROWS = {
    "t5gemma": Row(
        transformers.T5GemmaConfig,
        (transformers.T5GemmaForConditionalGeneration, pair(transformers.T5GemmaEncoderModel)),
        both(),
        {"encoder": SIZES, "decoder": SIZES},
        reads=frozenset({"attention_dropout"}),
    )
}

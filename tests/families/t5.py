"""T5, mT5 and UMT5: with the input's table as the output's, and with another."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import Row, labelled

SIZES: dict[str, Any] = {"vocab_size": 50, "d_model": 64, "d_ff": 96, "num_layers": 2, "num_heads": 8}
KINDS = ["relu", "gated-gelu", "gelu", "gated-silu", "gated-relu"]


@st.composite
def t5(draw: st.DrawFn, **more: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Heads free of the width, depths apart, tables of few and of many buckets."""
    buckets, distance = draw(st.sampled_from([(4, 3), (6, 5), (8, 9), (32, 128), (7, 30)]))
    return {
        "vocab_size": 61,
        "d_model": draw(st.sampled_from([7, 24])),
        "d_kv": draw(st.sampled_from([1, 5, 16])),
        "d_ff": draw(st.sampled_from([9, 20])),
        "num_layers": draw(st.sampled_from([1, 2])),
        "num_decoder_layers": draw(st.sampled_from([None, 1, 3])),
        "num_heads": draw(st.sampled_from([1, 3, 4])),
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": distance,
        "layer_norm_epsilon": draw(st.sampled_from([1e-6, 1e-2])),
        "feed_forward_proj": draw(st.sampled_from(KINDS)),
        "decoder_start_token_id": 0,
        **draw(labelled()),
        **{key: draw(strategy) for key, strategy in more.items()},
    }


def untied(model: Any) -> Any:
    """The class without its tie of the output table, as transformers loads a file that has two tables.

    With two T5 and UMT5 don't scale: versions of transformers disagree on one that does.
    """
    ties = {name: source for name, source in model._tied_weights_keys.items() if name != "lm_head.weight"}

    def build(self: Any, config: Any) -> None:
        if config.model_type != "mt5":
            config.scale_decoder_outputs = False
        model.__init__(self, config)

    return type(model.__name__, (model,), {"_tied_weights_keys": ties, "__init__": build})


def reading(name: str) -> list[Any]:
    """The classes of the encoder alone, and those of both that read."""
    kinds = "EncoderModel", "ForTokenClassification", "ForSequenceClassification", "ForQuestionAnswering"
    return [getattr(transformers, f"{name}{kind}") for kind in kinds]


V10, NEW = transformers.T5ForConditionalGeneration, transformers.MT5ForConditionalGeneration
OWN = transformers.UMT5ForConditionalGeneration
ROWS = {
    "t5": Row(
        transformers.T5Config,
        (V10, untied(V10), *reading("T5")),
        t5(tie_word_embeddings=st.booleans()),
        SIZES,
        stays=False,
    ),
    "mt5": Row(transformers.MT5Config, (NEW, untied(NEW), *reading("MT5")), t5(), SIZES),
    "umt5": Row(
        transformers.UMT5Config,
        (OWN, untied(OWN), *reading("UMT5")),
        t5(tie_word_embeddings=st.booleans()),
        SIZES,
        stays=False,
    ),
}

"""BART, and what Marian, mBART and Pegasus draw alike."""

import operator
from typing import Any

import torch
import transformers
from hypothesis import strategies as st

from .kit import Row, labelled

# The sizes under these classes' own names.
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 80,
}


@st.composite
def pairs(draw: st.DrawFn, vocabulary: int = 61, **more: st.SearchStrategy[Any]) -> dict[str, Any]:
    """The keys that all four share; heads, depths and mlps of both sides differ, heads may be odd."""
    width, *heads = draw(st.sampled_from([(8, 1, 1), (12, 2, 3), (18, 3, 2), (20, 5, 1), (48, 6, 3)]))
    return {
        "vocab_size": vocabulary,
        "d_model": width,
        "encoder_layers": draw(st.sampled_from([1, 2])),
        "decoder_layers": draw(st.sampled_from([1, 2])),
        "encoder_attention_heads": heads[0],
        "decoder_attention_heads": heads[1],
        "encoder_ffn_dim": draw(st.sampled_from([7, 24])),
        "decoder_ffn_dim": draw(st.sampled_from([5, 16])),
        "activation_function": draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu"])),
        "max_position_embeddings": draw(st.sampled_from([12, 64])),
        "scale_embedding": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "pad_token_id": 1,
        "decoder_start_token_id": 2,
        **{key: draw(strategy) for key, strategy in more.items()},
    }


def amend(model: Any) -> None:
    """A bias of the logits, which the class has as zeros; one table of both sides, tied to the output's or
    not: without the tie transformers 5 makes three."""
    if (bias := getattr(model, "final_logits_bias", None)) is not None:
        bias.copy_(torch.randn(bias.shape, generator=torch.Generator().manual_seed(7)))
    if not model.config.tie_word_embeddings:
        for side in (model.base_model.encoder, model.base_model.decoder):
            side.embed_tokens.weight.copy_(model.base_model.shared.weight)


ROWS = {
    "bart": Row(
        transformers.BartConfig,
        (
            transformers.BartForConditionalGeneration,
            transformers.BartForSequenceClassification,
            transformers.BartForQuestionAnswering,
        ),
        st.builds(operator.or_, pairs(), labelled()),
        SIZES,
        amend=amend,
    )
}

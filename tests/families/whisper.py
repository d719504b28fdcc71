"""Whisper, with windows of a few frames: heads, depths and mlps of both sides differ."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import Row

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "d_model": 64,
    "num_mel_bins": 10,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 80,
    "max_source_positions": 7,
    "pad_token_id": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 3,
    "begin_suppress_tokens": [5, 2],
}


@st.composite
def _whisper(draw: st.DrawFn) -> dict[str, Any]:
    width, *heads = draw(st.sampled_from([(8, 1, 2), (12, 2, 3), (18, 3, 2), (20, 5, 1), (48, 6, 3)]))
    return SIZES | {
        "vocab_size": 61,
        "d_model": width,
        "num_mel_bins": draw(st.sampled_from([5, 10])),
        "encoder_layers": draw(st.sampled_from([1, 2])),
        "decoder_layers": draw(st.sampled_from([1, 2])),
        "encoder_attention_heads": heads[0],
        "decoder_attention_heads": heads[1],
        "encoder_ffn_dim": draw(st.sampled_from([7, 24])),
        "decoder_ffn_dim": draw(st.sampled_from([5, 16])),
        "activation_function": draw(st.sampled_from(["gelu", "gelu_new", "relu", "silu"])),
        "max_source_positions": draw(st.sampled_from([3, 7])),
        "max_target_positions": draw(st.sampled_from([12, 64])),
        "scale_embedding": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
    }


ROWS = {
    "whisper": Row(
        transformers.WhisperConfig, (transformers.WhisperForConditionalGeneration,), _whisper(), SIZES
    )
}

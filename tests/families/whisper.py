"""Whisper, with windows of a few frames: heads, depths and mlps of both sides differ."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .bart import pairs
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


def _keys(shared: dict[str, Any]) -> dict[str, Any]:
    """BART's, but for how many positions there are and which tokens mean something."""
    own = ("max_position_embeddings", "pad_token_id", "decoder_start_token_id")
    return SIZES | {key: value for key, value in shared.items() if key not in own}


DRAWN = pairs(
    num_mel_bins=st.sampled_from([5, 10]),
    max_source_positions=st.sampled_from([3, 7]),
    max_target_positions=st.sampled_from([12, 64]),
).map(_keys)
ROWS = {
    "whisper": Row(transformers.WhisperConfig, (transformers.WhisperForConditionalGeneration,), DRAWN, SIZES)
}

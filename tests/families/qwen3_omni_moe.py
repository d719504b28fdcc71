"""Qwen3-Omni."""

import operator
from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import SIZES, Row, wrapped
from .llava import without_implementation
from .qwen2_5_omni import whole
from .qwen3_vl import MOE, VISION, text_keys

AUDIO: dict[str, Any] = {
    "d_model": 8, "encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": 8, "output_dim": 8,
    "num_mel_bins": 8, "downsample_hidden_size": 8,
}  # fmt: skip


class Qwen3OmniMoeForConditionalGeneration(transformers.Qwen3OmniMoeForConditionalGeneration):
    """transformers' class, which has no pass of its own: the thinker's, which writes its texts."""

    def forward(self, *inputs: Any, **arguments: Any) -> Any:
        return self.thinker(*inputs, **arguments)


def published(keys: dict[str, Any]) -> dict[str, Any]:
    """Keys with what the publisher's files say of sections beside another word for it."""
    return {**keys, "rope_parameters": {**keys["rope_parameters"], "interleaved": True}}


TEXT = text_keys(without_implementation(MOE)).map(published)
KEYS = wrapped(TEXT, VISION, audio_config=AUDIO, experts_implementation="eager")
STATED = {"text_config": {**SIZES, "num_attention_heads": 4}, "vision_config": VISION, "audio_config": AUDIO}
ROWS = {
    "qwen3_omni_moe_thinker": Row(
        transformers.Qwen3OmniMoeThinkerConfig,
        (transformers.Qwen3OmniMoeThinkerForConditionalGeneration,),
        KEYS,
        STATED,
    ),
    "qwen3_omni_moe": Row(
        transformers.Qwen3OmniMoeConfig,
        (Qwen3OmniMoeForConditionalGeneration,),
        st.builds(operator.or_, whole(KEYS), st.just({"experts_implementation": "eager"})),
        {"thinker_config": STATED, "enable_audio_output": False},
    ),
}

"""Qwen2.5-Omni."""

from typing import Any

import transformers
from hypothesis import strategies as st

from .kit import SIZES, Row, wrapped
from .qwen2_vl import TOWERS, text_keys

AUDIO: dict[str, Any] = {
    "d_model": 8, "encoder_layers": 1, "encoder_attention_heads": 1, "encoder_ffn_dim": 8, "output_dim": 8,
    "num_mel_bins": 4,
}  # fmt: skip
VISION = TOWERS["Qwen2_5_VL"]


class Qwen2_5OmniForConditionalGeneration(transformers.Qwen2_5OmniForConditionalGeneration):  # noqa: N801
    """transformers' class, which has no pass of its own: the thinker's, which writes its texts."""

    def forward(self, *inputs: Any, **arguments: Any) -> Any:
        return self.thinker(*inputs, **arguments)


@st.composite
def whole(draw: st.DrawFn, thinker: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """The keys of the whole model without what talks."""
    return {"thinker_config": draw(thinker), "enable_audio_output": False}


KEYS = wrapped(text_keys(), VISION, audio_config=AUDIO)
STATED = {"text_config": SIZES, "vision_config": VISION, "audio_config": AUDIO}
ROWS = {
    "qwen2_5_omni_thinker": Row(
        transformers.Qwen2_5OmniThinkerConfig,
        (transformers.Qwen2_5OmniThinkerForConditionalGeneration,),
        KEYS,
        STATED,
    ),
    "qwen2_5_omni": Row(
        transformers.Qwen2_5OmniConfig,
        (Qwen2_5OmniForConditionalGeneration,),
        whole(KEYS),
        {"thinker_config": STATED, "enable_audio_output": False},
    ),
}

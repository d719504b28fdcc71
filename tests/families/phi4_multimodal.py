"""Phi-4-multimodal."""

from typing import Any

import transformers

from .kit import SIZES, Row
from .llava import TOWER
from .phi3 import phi3

PARTS: dict[str, Any] = {
    "vision_config": {**TOWER, "crop_size": 4},
    "audio_config": {
        "hidden_size": 8, "intermediate_size": 8, "num_blocks": 1, "num_attention_heads": 1,
        "ext_pw_out_channel": 8, "depthwise_separable_out_channel": 8, "nemo_conv_channels": 8,
        "input_size": 16,
    },
}  # fmt: skip
ROWS = {
    "phi4_multimodal": Row(
        transformers.Phi4MultimodalConfig,
        (transformers.Phi4MultimodalForCausalLM, transformers.Phi4MultimodalModel),
        phi3().map(lambda keys: keys | PARTS),
        {**SIZES, **PARTS},
    )
}

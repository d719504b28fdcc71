"""Gemma 4 12B."""

from typing import Any

import transformers

from .gemma4 import amend, text_keys
from .kit import SIZES, Row, wrapped

# What Gemma 4 alone has.
ABSENT = (
    "hidden_size_per_layer_input", "vocab_size_per_layer_input", "enable_moe_block", "num_experts",
    "moe_intermediate_size", "top_k_experts",
)  # fmt: skip
TEXT = text_keys().map(lambda keys: {key: keys[key] for key in keys if key not in ABSENT})
IMAGES: dict[str, Any] = {
    "patch_size": 2, "pooling_kernel_size": 1, "mm_embed_dim": 8, "mm_posemb_size": 4, "output_proj_dims": 8,
}  # fmt: skip
ROWS = {
    "gemma4_unified_text": Row(
        transformers.Gemma4UnifiedTextConfig,
        (transformers.Gemma4UnifiedForCausalLM, transformers.Gemma4UnifiedTextModel),
        TEXT,
        amend=amend,
    ),
    "gemma4_unified": Row(
        transformers.Gemma4UnifiedConfig,
        (transformers.Gemma4UnifiedForConditionalGeneration, transformers.Gemma4UnifiedModel),
        wrapped(TEXT, IMAGES, audio_config={"audio_embed_dim": 6}),
        {"text_config": SIZES, "vision_config": IMAGES},
        amend=amend,
    ),
}

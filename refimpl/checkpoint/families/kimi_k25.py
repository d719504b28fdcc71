"""The text part of Kimi K2.5 (Moonshot AI 2026): DeepSeek-V3's decoder."""

from ..config_readers.text_part import TextModel, sizes, text_part
from ..weights.weight_map import weight_map
from . import Task, deepseek_v3
from .llava import PREFIX as PREFIX

MODEL_TYPES = ("kimi_k25",)
# The first as transformers names it, the second as the publisher does.
ARCHITECTURES: dict[str, Task] = {
    "Kimi_K25ForConditionalGeneration": "lm",
    "KimiK25ForConditionalGeneration": "lm",
    "Kimi_K25Model": "pool",
}


TEXT = TextModel(deepseek_v3.config, sizes(129_280, 7168, mlp=18_432, layers=61, heads=128))
# transformers writes the decoder's layers by the name that those of the tower have.
AS_TOWER = {"layers.{i}.": "blocks.{i}.", "decoder.blocks.": "decoder.layers."}
LEFT_OUT = weight_map("""
    left out <- {vision_tower,mm_projector}.*
""")
config = text_part(
    {"deepseek_v3": TEXT, "kimi_k2": TEXT}, "deepseek_v3", tied=True, unused=(
        "vision_config", "image_token_id", "video_token_id", "vision_start_token_id",
        "vision_end_token_id", "projection_hidden_size", "projection_layer_norm_eps",
        "media_placeholder_token_id", "use_unified_vision_chunk", "video_placeholder",
        "ignore_index",
    ),
)  # fmt: skip
WEIGHTS = deepseek_v3.WEIGHTS + deepseek_v3.WEIGHTS.renamed(AS_TOWER) + LEFT_OUT

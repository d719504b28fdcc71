"""The text part of Qwen2-VL and Qwen2.5-VL (Wang et al. 2024): Qwen 2 with other defaults, and M-RoPE
positions.
"""

from dataclasses import replace

from ...config import Decoder
from ..config_readers.decoder import decoder, map_attention
from ..config_readers.gguf_keys import SECTIONED
from ..config_readers.gguf_rope import SECTIONS
from ..config_readers.gguf_weights import UNPERMUTED_QK_WEIGHTS
from ..config_readers.keys import Keys
from ..config_readers.layers import head_size
from ..config_readers.text_part import TextModel, sizes, text_model, without_sections
from ..weights.weight_map import weight_map
from . import Gguf, Task
from .llama import WEIGHTS as LLAMA
from .qwen2 import KEYS, windows

MODEL_TYPES = ("qwen2_vl", "qwen2_5_vl")
ARCHITECTURES: dict[str, Task] = {
    "Qwen2VLForConditionalGeneration": "lm",
    "Qwen2_5_VLForConditionalGeneration": "lm",
    "Qwen2VLModel": "pool",
    "Qwen2_5_VLModel": "pool",
}
# Releases before transformers 4.52 have the last alone.
PREFIX = ("model.language_model.", "language_model.", "model.")


def config(keys: Keys, task: Task) -> Decoder:
    ignore_image_keys(keys)
    kind = keys.get("model_type", str)
    texts = {f"{kind}_text": TEXT, kind: TEXT}
    return text_model(keys, task, texts, f"{kind}_text", tied=False, either=True, flat=True)


def ignore_image_keys(keys: Keys) -> None:
    """Mark keys as known that concern Qwen's vision towers, or the tokens around images or in their place."""
    keys.unused(
        "vision_config", "image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id",
        "vision_token_id",
    )  # fmt: skip


def _text(keys: Keys, task: Task) -> Decoder:
    ignore_image_keys(keys)
    keys = without_sections(keys, 1e6)
    size = head_size(keys)
    keys.restated("head_dim", size, f"hidden_size / num_attention_heads ({size})")
    base = decoder(
        keys,
        kv_heads=keys.size("num_key_value_heads", 8, null=True),
        context=32_768,
        attention_bias=True,
        eps=1e-5,
    )
    masks = windows(keys)
    return map_attention(base, lambda i, a: replace(a, out_bias=False, mask=masks[i]))


TEXT = TextModel(_text, sizes(152_064, 8192, mlp=29_568, layers=80, heads=64, max_window_layers=80))
LEFT_OUT = weight_map("""
    left out <- visual.*
""")
WEIGHTS = LLAMA + LEFT_OUT


GGUF = Gguf("qwen2vl", {**KEYS, **SECTIONED}, UNPERMUTED_QK_WEIGHTS, arrays=(SECTIONS,))

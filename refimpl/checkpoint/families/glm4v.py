"""The text part of GLM-4.1V and GLM-4.6V Flash (GLM-V Team 2025): GLM-4's decoder, with M-RoPE positions."""

from dataclasses import replace
from functools import partial

from ...config import Decoder
from ..config_readers.decoder import decoder, interleaved, map_attention, map_layers
from ..config_readers.keys import Keys
from ..config_readers.layers import head_size
from ..config_readers.rope import rope
from ..config_readers.text_part import TextModel, sizes, text_model, without_sections
from . import Task, glm4
from .glm4 import GGUF as GGUF
from .qwen2_vl import LEFT_OUT, ignore_image_keys
from .qwen2_vl import PREFIX as PREFIX

MODEL_TYPES = ("glm4v",)
ARCHITECTURES: dict[str, Task] = {"Glm4vForConditionalGeneration": "lm", "Glm4vModel": "pool"}


def config(keys: Keys, task: Task) -> Decoder:
    return image_text_model(keys, task, {"glm4v_text": TEXT}, "glm4v_text")


def image_text_model(keys: Keys, task: Task, models: dict[str, TextModel], default: str) -> Decoder:
    """Read the text model of a GLM model that reads images."""
    ignore_image_keys(keys)
    keys.unused("image_start_token_id", "image_end_token_id", "video_start_token_id", "video_end_token_id")
    return text_model(keys, task, models, default, tied=False, either=True)


def _text(keys: Keys, task: Task) -> Decoder:
    size = head_size(keys)
    keys.restated("head_dim", size, f"hidden_size / num_attention_heads ({size})")
    return glm_of_images(keys, kv_heads=2, context=32_768, bias=True)


def glm_of_images(keys: Keys, *, kv_heads: int, context: int, bias: bool) -> Decoder:
    """Return GLM-4's decoder with M-RoPE. Whole heads are rotated if no key states a smaller part."""
    keys.harmless(attention_bias=(bias,))
    base = decoder(
        without_sections(keys, 10_000.0),
        kv_heads=keys.size("num_key_value_heads", kv_heads, null=True),
        context=context,
        attention_bias=bias,
        eps=1e-5,
        positions=partial(rope, partial=1.0),
    )
    base = map_attention(base, lambda _, attention: replace(attention, out_bias=False))
    return map_layers(interleaved(base), glm4.sandwiched)


TEXT = TextModel(_text, sizes(151_552, 4096, mlp=13_696, layers=40, heads=32))
WEIGHTS = glm4.WEIGHTS + LEFT_OUT

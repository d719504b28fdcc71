"""Gemma 4 12B (Google 2026), as text: Gemma 4's decoder, without experts and per-layer vectors.

The model reads images and sound without separate encoders."""

from ...config import Decoder
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, text_model
from ..weights.weight_map import weight_map
from . import Task, gemma4
from .gemma4 import GGUF as GGUF
from .gemma4 import PREFIX as PREFIX

MODEL_TYPES = ("gemma4_unified_text", "gemma4_unified")
ARCHITECTURES: dict[str, Task] = {
    "Gemma4UnifiedForCausalLM": "lm",
    "Gemma4UnifiedForConditionalGeneration": "lm",
    "Gemma4UnifiedTextModel": "pool",
    "Gemma4UnifiedModel": "pool",
}
DEFAULTS = {"max_position_embeddings": 262_144, "sliding_window": 1024, "hidden_size_per_layer_input": 0}


def config(keys: Keys, task: Task) -> Decoder:
    if keys.get("model_type", str) == "gemma4_unified_text":
        return TEXT.config(keys, task)
    gemma4.ignore_other_parts(keys)
    return text_model(keys, task, {"gemma4_unified_text": TEXT}, "gemma4_unified_text", tied=True)


def _text(keys: Keys, task: Task) -> Decoder:
    # What Gemma 4 has and the class hasn't.
    keys.harmless(enable_moe_block=(False,), hidden_size_per_layer_input=(0, None))
    return gemma4.TEXT.config(keys.with_defaults(DEFAULTS), task)


TEXT = TextModel(_text, gemma4.TEXT.defaults)
WEIGHTS = gemma4.WEIGHTS + weight_map("""
    left out <- vision_embedder.*
""")

"""The text part of Idefics3 and SmolVLM (Laurençon et al. 2024; Marafioti et al. 2025): Llama's decoder."""

from ...config import Decoder
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, text_model
from ..weights.weight_map import weight_map
from . import Task, llama
from .llava import TEXTS as LLAVA_TEXTS

MODEL_TYPES = ("idefics3", "smolvlm")
ARCHITECTURES: dict[str, Task] = {
    "Idefics3ForConditionalGeneration": "lm",
    "SmolVLMForConditionalGeneration": "lm",
    "Idefics3Model": "pool",
    "SmolVLMModel": "pool",
}
PREFIX = ("model.text_model.", "text_model.", "model.")


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("vision_config", "image_token_id", "scale_factor", "_pad_token_id")
    keys.unused("use_reentrant_checkpointing")  # of training
    return text_model(keys, task, TEXTS, "llama", tied=False)


def _text(keys: Keys, task: Task) -> Decoder:
    # Of the library that trained them; the class is Llama's.
    keys.unused("perceiver_config", "pixel_shuffle_factor")
    keys.harmless(qk_layer_norms=(False,), use_resampler=(False,))
    return llama.config(keys, task)


TEXTS = {"llama": TextModel(_text, LLAVA_TEXTS["llama"].defaults)}
WEIGHTS = llama.WEIGHTS + weight_map("""
    left out <- {vision_model,connector}.*
""")

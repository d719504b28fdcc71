"""The text part of Gemma 3 with a vision tower (Kamath et al. 2025)."""

from dataclasses import replace

from ...config import Decoder
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, text_part
from . import Task, gemma3
from .llava import LEFT_OUT
from .llava import PREFIX as PREFIX

MODEL_TYPES = ("gemma3",)
ARCHITECTURES: dict[str, Task] = {
    "Gemma3ForConditionalGeneration": "lm",
    "Gemma3Model": "pool",
    "Gemma3ForSequenceClassification": "classify",
}

SIZES = {
    "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8,
}  # fmt: skip


def _text(keys: Keys, task: Task) -> Decoder:
    # The class has no cap, that of the text model alone has; nor does it read in both directions.
    keys.harmless(final_logit_softcapping=(None,), use_bidirectional_attention=(False, None))
    config = gemma3.config(keys, task)
    assert isinstance(config, Decoder), "it would read in both directions"
    return config


TEXTS = {"gemma3_text": TextModel(_text, SIZES)}
config = text_part(
    TEXTS, "gemma3_text", tied=True, unused=(
        "vision_config", "mm_tokens_per_image", "boi_token_index", "eoi_token_index",
        "image_token_index", "boi_token_id", "eoi_token_id", "image_token_id",
    ),
)  # fmt: skip
WEIGHTS = gemma3.WEIGHTS + LEFT_OUT
GGUF = replace(gemma3.GGUF, other=None)

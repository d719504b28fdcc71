"""The text part of Qwen2.5-Omni (Xu et al. 2025): the text model of the "thinker" part, the same as in
Qwen2.5-VL.
"""

from ...config import Decoder
from ..config_readers.generation_keys import UNREAD
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, text_model
from ..weights.weight_map import weight_map
from . import Task, qwen2_vl
from .llama import WEIGHTS as LLAMA
from .qwen2_vl import GGUF as GGUF

MODEL_TYPES = ("qwen2_5_omni_thinker", "qwen2_5_omni")
ARCHITECTURES: dict[str, Task] = {
    "Qwen2_5OmniThinkerForConditionalGeneration": "lm",
    "Qwen2_5OmniForConditionalGeneration": "lm",
    "Qwen2_5OmniModel": "lm",  # as the publisher's files name the class before it
    "Qwen2_5OmniThinkerModel": "pool",
}
# Of the whole model, and of the thinker alone.
PREFIX = ("thinker.model.language_model.", "thinker.model.", "thinker.", *qwen2_vl.PREFIX)


def config(keys: Keys, task: Task) -> Decoder:
    return thinkers_text(keys, task, TEXT, "qwen2_5_omni")


def thinkers_text(keys: Keys, task: Task, text: TextModel, kind: str) -> Decoder:
    """Read the text model of a "thinker" part.

    The checkpoint contains only the thinker, or the whole model, which also speaks."""
    if keys.get("model_type", str) != kind:
        return _text(keys, task, text, kind)
    keys.unused("talker_config", "token2wav_config", "code2wav_config")
    keys.unused("enable_audio_output", "enable_audio_output_", "enable_talker")
    where = f"{keys.where}: thinker_config"
    thinker = Keys(keys.get("thinker_config", dict), where, keys.tensors, keys.ignore)
    thinker.unused("architectures")
    config = _text(thinker, task, text, kind)
    thinker.finish(UNREAD)
    return config


def _text(keys: Keys, task: Task, text: TextModel, kind: str) -> Decoder:
    qwen2_vl.ignore_image_keys(keys)
    keys.unused(
        "audio_config", "audio_token_id", "audio_token_index", "image_token_index", "video_token_index",
        "audio_start_token_id", "audio_end_token_id", "user_token_id", "position_id_per_seconds",
        "seconds_per_chunk", "ignore_index", "init_std",
    )  # fmt: skip
    return text_model(keys, task, {f"{kind}_text": text}, f"{kind}_text", tied=False)


def _qwen2(keys: Keys, task: Task) -> Decoder:
    keys.get("init_std", float, None)  # of training
    return qwen2_vl.TEXT.config(keys, task)


TEXT = TextModel(
    _qwen2,
    {"vocab_size": 152_064, "hidden_size": 3584, "intermediate_size": 18_944, "num_hidden_layers": 28,
     "num_attention_heads": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "max_window_layers": 28},
)  # fmt: skip
LEFT_OUT = weight_map("""
    left out <- {visual,audio_tower,talker,token2wav,code2wav}.*
""")
WEIGHTS = LLAMA + LEFT_OUT

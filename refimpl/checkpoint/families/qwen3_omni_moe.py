"""The text part of Qwen3-Omni (Xu et al. 2025): the text model of the "thinker" part. It is Qwen 3 MoE with
M-RoPE positions.
"""

from ...config import Decoder
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, sizes, without_sections
from . import Task, qwen2_5_omni, qwen3_moe
from .qwen2_5_omni import PREFIX as PREFIX
from .qwen3_vl_moe import GGUF as GGUF

MODEL_TYPES = ("qwen3_omni_moe_thinker", "qwen3_omni_moe")
ARCHITECTURES: dict[str, Task] = {
    "Qwen3OmniMoeThinkerForConditionalGeneration": "lm",
    "Qwen3OmniMoeForConditionalGeneration": "lm",
    "Qwen3OmniMoeThinkerModel": "pool",
}


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused("im_start_token_id", "im_end_token_id", "system_token_id")
    keys.unused("tts_pad_token_id", "tts_bos_token_id", "tts_eos_token_id")
    return qwen2_5_omni.thinkers_text(keys, task, TEXT, "qwen3_omni_moe")


def _text(keys: Keys, task: Task) -> Decoder:
    keys.harmless(use_sliding_window=(False,), sliding_window=(int, None))  # no class reads a window
    return qwen3_moe.config(without_sections(keys, 1e6), task)


TEXT = TextModel(_text, sizes(3584, 2048, mlp=18_944, layers=28, heads=28, norm_topk_prob=True))
WEIGHTS = qwen3_moe.WEIGHTS + qwen2_5_omni.LEFT_OUT

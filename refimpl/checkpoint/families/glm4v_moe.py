"""The text part of GLM-4.5V and GLM-4.6V (GLM-V Team 2025): GLM-4.5's decoder, with M-RoPE positions."""

from dataclasses import replace

from ...config import Decoder
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, without_sections
from . import Task, glm4_moe, glm4v
from .glm4_moe import GGUF as GGUF
from .qwen2_vl import LEFT_OUT
from .qwen2_vl import PREFIX as PREFIX

MODEL_TYPES = ("glm4v_moe",)
ARCHITECTURES: dict[str, Task] = {"Glm4vMoeForConditionalGeneration": "lm", "Glm4vMoeModel": "pool"}


def config(keys: Keys, task: Task) -> Decoder:
    return glm4v.image_text_model(keys, task, {"glm4v_moe_text": TEXT}, "glm4v_moe_text")


def _text(keys: Keys, task: Task) -> Decoder:
    keys.harmless(use_qk_norm=(False,), qk_layernorm=(False,), router_aux_loss_coef=(float,))
    return replace(glm4_moe.config(without_sections(keys, 10_000.0), task), mtp=None)


TEXT = TextModel(
    _text,
    {"vocab_size": 151_424, "hidden_size": 4096, "intermediate_size": 10_944, "num_hidden_layers": 46,
     "num_attention_heads": 96, "max_position_embeddings": 65_536, "attention_bias": True},
)  # fmt: skip
WEIGHTS = glm4_moe.WITHOUT_MTP + LEFT_OUT

"""The text part of GLM-OCR (Zhipu AI 2026): the text part of GLM-4.1V, without biases.

tfm leaves out the layer after the last, which predicts further tokens, as transformers' class does.
"""

from ...config import Decoder
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, sizes
from ..weights.weight_map import weight_map
from . import Task, glm4v
from .glm4 import GGUF as GGUF
from .qwen2_vl import PREFIX as PREFIX

MODEL_TYPES = ("glm_ocr",)
ARCHITECTURES: dict[str, Task] = {"GlmOcrForConditionalGeneration": "lm", "GlmOcrModel": "pool"}


def config(keys: Keys, task: Task) -> Decoder:
    return glm4v.image_text_model(keys, task, {"glm_ocr_text": TEXT}, "glm_ocr_text")


def _text(keys: Keys, task: Task) -> Decoder:
    keys.harmless(num_nextn_predict_layers=(int,))
    return glm4v.glm_of_images(keys, kv_heads=8, context=131_072, bias=False)


TEXT = TextModel(_text, sizes(59_392, 1024, mlp=4096, layers=16, heads=16))
WEIGHTS = glm4v.WEIGHTS + weight_map("""
    left out <- layers.{n}.*
""")

"""The text part of Command A Vision (Cohere 2025): Command A's decoder, with logits that aren't scaled.

transformers' class has its own head over the text model's decoder, and this head ignores logit_scale. vLLM
multiplies logits by logit_scale. Greedy decoding gives the same texts.
"""

from dataclasses import replace

from ...config import LM, Decoder
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, sizes, text_part
from . import Task, cohere2
from .llava import LEFT_OUT
from .llava import PREFIX as PREFIX

MODEL_TYPES = ("cohere2_vision",)
ARCHITECTURES: dict[str, Task] = {"Cohere2VisionForConditionalGeneration": "lm", "Cohere2VisionModel": "pool"}


def _text(keys: Keys, task: Task) -> Decoder:
    decoder = cohere2.config(keys, task)
    assert isinstance(decoder.head, LM)
    return replace(decoder, head=replace(decoder.head, scale=None))


TEXT = TextModel(_text, sizes(256_000, 8192, mlp=22_528, layers=40, heads=64))
config = text_part(
    {"cohere2": TEXT}, "cohere2", tied=True, unused=(
        "vision_config", "image_token", "image_token_id", "downsample_factor", "max_splits_per_img",
        "alignment_intermediate_size", "alignment_activation_fn", "adapter_layer_norm_eps",
        "enable_adapter_layer_norm", "vision_feature_layer", "vision_feature_select_strategy",
    ),
)  # fmt: skip
WEIGHTS = cohere2.WEIGHTS + LEFT_OUT

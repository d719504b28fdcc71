"""The text part of Aya Vision (Dash et al. 2025): a decoder of Command R7B, or of Command R for the 32B
model.

Logits are multiplied by logit_scale, as transformers does since 5.25. Before, its head left the scale out.
"""

from ..config_readers.text_part import TextModel, sizes, text_part
from . import Task, cohere, cohere2
from .llava import LEFT_OUT
from .llava import PREFIX as PREFIX

MODEL_TYPES = ("aya_vision",)
ARCHITECTURES: dict[str, Task] = {"AyaVisionForConditionalGeneration": "lm", "AyaVisionModel": "pool"}

TEXT = TextModel(cohere2.config, sizes(256_000, 8192, mlp=22_528, layers=40, heads=64))
OLDER = TextModel(cohere.config, sizes(256_000, 8192, mlp=22_528, layers=40, heads=64))
config = text_part(
    {"cohere2": TEXT, "cohere": OLDER}, "cohere2", tied=True, unused=(
        "vision_config", "image_token_id", "image_token_index", "downsample_factor",
        "adapter_layer_norm_eps", "vision_feature_layer", "vision_feature_select_strategy",
        "max_splits_per_img", "alignment_activation_fn", "alignment_intermediate_size",
        "projector_hidden_act",
    ),
)  # fmt: skip
WEIGHTS = cohere.WEIGHTS + LEFT_OUT

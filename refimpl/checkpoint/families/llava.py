"""The text part of LLaVA, LLaVA-NeXT, LLaVA-OneVision, InternVL and Mistral Small 3.1 (Liu et al. 2023). Such
a model has a vision tower, a projector and a decoder. tfm reads the decoder, which `text_config` describes
and which has Llama's form."""

from ...config import Decoder
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, sizes, text_model
from ..weights.weight_map import weight_map
from . import Task, llama, ministral3, mistral, mistral4, phi3, qwen2, qwen3

CLASSES = {
    "llava": "Llava",
    "llava_next": "LlavaNext",
    "llava_onevision": "LlavaOnevision",
    "mistral3": "Mistral3",
    "internvl": "InternVL",
}
MODEL_TYPES = tuple(CLASSES)
ARCHITECTURES: dict[str, Task] = {
    **{f"{name}ForConditionalGeneration": "lm" for name in CLASSES.values()},
    **{f"{name}Model": "pool" for name in CLASSES.values()},
}
# Of releases before transformers 4.52 the second.
PREFIX = ("model.language_model.", "language_model.model.", "language_model.", "model.")

TEXTS = {
    "llama": TextModel(llama.config, sizes(32_000, 4096, mlp=11_008, layers=32, heads=32)),
    "mistral": TextModel(mistral.config, sizes(32_000, 4096, mlp=14_336, layers=32, heads=32)),
    "ministral3": TextModel(ministral3.config, sizes(131_072, 4096, mlp=14_336, layers=34, heads=32)),
    "mistral4": TextModel(mistral4.config, sizes(131_072, 4096, mlp=12_288, layers=36, heads=32)),
    "phi3": TextModel(phi3.config, sizes(32_064, 3072, mlp=8192, layers=32, heads=32)),
    "qwen2": TextModel(qwen2.config, sizes(151_936, 4096, mlp=22_016, layers=32, heads=32)),
    "qwen3": TextModel(qwen3.config, sizes(151_936, 4096, mlp=22_016, layers=32, heads=32)),
}
DEFAULTS = {"mistral3": "mistral", "llava_onevision": "qwen2", "internvl": "qwen2"}


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused(
        "vision_config", "image_token_index", "image_token_id", "video_token_index", "image_seq_length",
        "projector_hidden_act", "vision_feature_select_strategy", "vision_feature_layer",
        "multimodal_projector_bias", "image_grid_pinpoints", "vision_aspect_ratio", "spatial_merge_size",
        "downsample_ratio", "use_image_newline_parameter", "ignore_index",
    )  # fmt: skip
    kind = keys.get("model_type", str)
    return text_model(
        keys,
        task,
        TEXTS,
        DEFAULTS.get(kind, "llama"),
        tied=kind in ("mistral3", "internvl"),
        either=kind in ("llava", "llava_onevision"),
    )


LEFT_OUT = weight_map("""
    left out <- {vision_tower,multi_modal_projector}.*
    left out <- image_newline*
""")
WEIGHTS = mistral4.WEIGHTS + llama.QK_NORM + phi3.FUSED + LEFT_OUT

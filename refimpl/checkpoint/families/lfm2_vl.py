"""The text part of LFM2-VL and LFM3-VL (Liquid AI 2025): the decoder of LFM2 or LFM3."""

from ...config import Decoder
from ..config_readers.keys import Keys
from ..config_readers.text_part import TextModel, sizes, text_model
from . import Task, lfm2, lfm3
from .llava import LEFT_OUT
from .llava import PREFIX as PREFIX

MODEL_TYPES = ("lfm2_vl", "lfm3_vl")
ARCHITECTURES: dict[str, Task] = {
    "Lfm2VlForConditionalGeneration": "lm",
    "Lfm3VlForConditionalGeneration": "lm",
    "Lfm2VlModel": "pool",
    "Lfm3VlModel": "pool",
}


def config(keys: Keys, task: Task) -> Decoder:
    keys.unused(
        "vision_config", "image_token_id", "image_token_index", "video_token_id", "vision_start_token_id",
        "vision_end_token_id", "projector_hidden_act", "projector_hidden_size", "projector_bias",
        "projector_use_layernorm", "downsample_factor", "encoder_patch_size", "do_image_splitting",
        "tile_size", "min_tiles", "max_tiles", "use_thumbnail", "use_image_special_tokens",
        "min_image_tokens", "max_image_tokens", "max_num_patches", "max_pixels_tolerance",
    )  # fmt: skip
    default = keys.get("model_type", str).removesuffix("_vl")
    return text_model(keys, task, {default: TEXTS[default]}, default, tied=True)


def _lfm2(keys: Keys, task: Task) -> Decoder:
    keys.get("tie_embedding", bool, None)  # the key beside text_config counts
    tied = keys.values["tie_word_embeddings"]
    return lfm2.config(keys.replaced({**keys.values, "tie_embedding": tied}), task)


TEXTS = {
    "lfm2": TextModel(_lfm2, sizes(65_536, 2560, mlp=12_288, layers=32, heads=32)),
    "lfm3": TextModel(lfm3.config, sizes(128_000, 2048, mlp=7680, layers=24, heads=16)),
}
WEIGHTS = lfm3.WEIGHTS + lfm2.WEIGHTS + LEFT_OUT

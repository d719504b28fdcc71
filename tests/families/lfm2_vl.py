"""LFM2-VL and LFM3-VL."""

from .kit import SIZES
from .lfm2 import lfm2_keys
from .lfm3 import lfm3_keys
from .llava import TOWER, row

SIGLIP2 = {
    "model_type": "siglip2_vision_model", "num_patches": 4,
    **{key: value for key, value in TOWER.items() if key != "image_size"},
}  # fmt: skip
FRAMES = {**TOWER, "model_type": "lfm3_vl_vision", "num_key_value_heads": 1}
ROWS = {
    "lfm2_vl": row("Lfm2Vl", lfm2_keys(), SIGLIP2, SIZES, projector_hidden_size=8),
    "lfm3_vl": row("Lfm3Vl", lfm3_keys(), FRAMES, SIZES, projector_hidden_size=8),
}

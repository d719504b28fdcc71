"""EXAONE 4.5."""

from .exaone4 import windowed
from .kit import SIZES
from .qwen2_vl import TOWER, row

VISION = {
    **TOWER,
    "intermediate_size": 8,
    "out_hidden_size": 8,
    "num_key_value_heads": 1,
    "fullatt_block_indexes": [0],
}
TEXT = windowed().map(lambda keys: keys | {"model_type": "exaone4"})
ROWS = {
    "exaone4_5": row(
        "Exaone4_5_", TEXT, VISION, {**SIZES, "num_attention_heads": 32, "model_type": "exaone4"}
    )
}

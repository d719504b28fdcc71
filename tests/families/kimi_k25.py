"""Kimi K2.5."""

from hypothesis import strategies as st

from .deepseek_v2 import latents
from .deepseek_v3 import GROUPS
from .glm4_moe import choice_biases
from .kit import SIZES
from .llava import TOWER, row, without_implementation

VISION = {
    **TOWER,
    "model_type": "kimi_k25_vision",
    "pos_emb_height": 2,
    "pos_emb_width": 2,
    "pos_emb_time": 2,
}
# Of queries without a latent transformers writes a part under a name of the tower's.
TEXT = latents(GROUPS, norm_topk_prob=st.booleans(), rope_interleave=st.booleans())
ROWS = {
    "kimi_k25": row(
        "Kimi_K25",
        without_implementation(TEXT).map(lambda keys: keys | {"q_lora_rank": 7}),
        VISION,
        {**SIZES, "num_attention_heads": 128},  # as many as heads with keys by default
        amend=choice_biases,
        projection_hidden_size=8,
        experts_implementation="eager",
    )
}

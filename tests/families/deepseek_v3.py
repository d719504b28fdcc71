"""DeepSeek-V3, and Kimi K2, which is one under another name."""

import json
from dataclasses import replace
from pathlib import Path

import transformers
from hypothesis import strategies as st

from .deepseek_v2 import latents
from .glm4_moe import choice_biases
from .kit import SIZES, decoder

GROUPS = ((3, 1, 1), (4, 2, 1), (6, 2, 1), (6, 3, 2))


def renamed(folder: Path) -> None:
    """The model_type that Kimi K2's config.json states, which transformers reads as DeepSeek-V3."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "kimi_k2"}))


DEEPSEEK = decoder(
    transformers.DeepseekV3Config,
    transformers.DeepseekV3ForCausalLM,
    latents(
        GROUPS, norm_topk_prob=st.booleans(), rope_interleave=st.booleans(), num_mtp_layers=st.integers(0, 2)
    ),
    {**SIZES, "num_attention_heads": 128},  # as many as heads with keys by default
    amend=choice_biases,
)
ROWS = {"deepseek_v3": DEEPSEEK, "kimi_k2": replace(DEEPSEEK, restate=renamed)}

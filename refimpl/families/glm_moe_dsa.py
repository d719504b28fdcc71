"""GLM-5 (Zhipu AI 2026): DeepSeek-V3.2's layers, with the indexer's heads rotated in pairs of neighbours.

A layer that takes the tokens which another layer's indexer chose is refused: each has its own here.
"""

from __future__ import annotations

from ..config import Decoder
from ..config_readers.keys import Keys
from . import Task
from .deepseek_v32 import GGUF, PREFIX, WEIGHTS, indexed_decoder

__all__ = ["ARCHITECTURES", "GGUF", "MODEL_TYPES", "PREFIX", "WEIGHTS", "config"]

MODEL_TYPES = ("glm_moe_dsa",)
ARCHITECTURES: dict[str, Task] = {"GlmMoeDsaForCausalLM": "lm"}
DEFAULTS = {
    "moe_intermediate_size": 2048,
    "routed_scaling_factor": 2.5,
    "q_lora_rank": 2048,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "rms_norm_eps": 1e-5,
}


def config(keys: Keys, task: Task) -> Decoder:
    keys.harmless(indexer_rope_interleave=(True,))
    base = indexed_decoder(keys, DEFAULTS, context=202_752, index_heads=32, interleaved=True)
    types = keys.get("indexer_types", list, None)
    if types is None:
        keys.harmless(index_topk_freq=(0, 1), index_topk_pattern=(None, "F" * len(base.layers)))
    elif types != ["full"] * len(base.layers):
        raise keys.fail("indexer_types", f"full for each of {len(base.layers)} layers, none of them shared")
    keys.unused("index_topk_freq", "index_topk_pattern", "index_skip_topk_offset")  # make these types
    return base

"""What a plain, a latent and a hybrid model of one size keep of a text: the table of GUIDE.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from tfm.cli.console import size
from tfm.refimpl.checkpoint.families import read_config
from tfm.refimpl.config import Config
from tfm.runtime.analysis import sizes

GUIDE = Path(__file__).parents[3] / "docs" / "GUIDE.md"
CONTEXTS = (1024, 8192, 131_072)
COMMON = {
    "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "vocab_size": 151_936,
    "max_position_embeddings": 262_144, "tie_word_embeddings": False,
}  # fmt: skip
# Qwen3 8B, and Kimi's attention and Qwen 3.5's in as many layers as wide.
PLAIN = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "intermediate_size": 12_288,
    "num_key_value_heads": 8, "head_dim": 128,
}  # fmt: skip
LATENT = {
    "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "intermediate_size": 12_288,
    "num_key_value_heads": 32, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "first_k_dense_replace": 36,
}  # fmt: skip
HYBRID = {
    "model_type": "qwen3_5_text", "architectures": ["Qwen3_5ForCausalLM"], "intermediate_size": 10_240,
    "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256, "linear_num_key_heads": 16,
    "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
}  # fmt: skip
# The row's name; bytes of a token and of a text of any length, by the papers' formulas.
ROWS = [
    ("grouped queries: 8 key and value heads, 32 query heads", PLAIN, 36 * 2 * 8 * 128, 0),
    ("latent (MLA): 512 numbers and a rotary key of 64 numbers", LATENT, 36 * (512 + 64), 0),
    ("hybrid: 9 attention and 27 recurrent layers", HYBRID, 9 * 2 * 4 * 256, 27 * (32 * 128**2 + 3 * 8192)),
]


def row(name: str, config: Config) -> str:
    """The row of a shape: parameters, and bytes of caches in 16 bits."""
    count = sum(sizes.parameters(config).values())
    kept = [size(sizes.cache_bytes(config, context, 2)) for context in CONTEXTS]
    return f"| {name} | {count / 1e9:.1f} | {' | '.join(kept)} |"


@pytest.mark.parametrize(("name", "keys", "token", "state"), ROWS)
def test_the_guide_has_what_each_shape_keeps(name: str, keys: dict[str, object], token: int, state: int):
    config, _ = read_config(COMMON | keys)
    for context in CONTEXTS:
        assert sizes.cache_bytes(config, context, 2) == 2 * (token * context + state)
    assert row(name, config) in GUIDE.read_text().splitlines()
    assert sum(sizes.parameters(config).values()) == pytest.approx(8.15e9, rel=0.01), "they have one size"

"""Read Mamba's layers from config.json, and map their weights. Families with such layers share this code."""

from __future__ import annotations

from ..weights.weight_map import weight_map
from .keys import Keys


def context(keys: Keys) -> int:
    """Return the context of a stack of Mamba layers. config.json has no key for this number, and the state
    doesn't grow with the text, so the context is 2^20 tokens. GGUF states a context."""
    return keys.size("max_position_embeddings") if keys.of_gguf else 2**20


def step_rank(keys: Keys, key: str, width: int) -> int:
    """Return the rank of the projection that computes the steps. "auto" means a 16th of the model's width,
    rounded up."""
    if keys.values.get(key, "auto") == "auto":
        keys.unused(key)
        return -(-width // 16)
    return keys.size(key)


def convolved(keys: Keys) -> None:
    """Mark the keys that say how a scan is computed as read. Raises ConfigError if the convolution's
    activation isn't SiLU.
    """
    keys.unused("use_mambapy", "use_associative_scan", "use_mamba_kernels")
    keys.choice("hidden_act", {"silu": "silu", "swish": "silu"}, "silu")


# Of the layer `mixer`, as Mamba's own checkpoints name it.
MIXER = weight_map("""
    decoder.layers.{i}.attn.wi, wz <- layers.{i}.mixer.in_proj.weight : transpose
    decoder.layers.{i}.attn.bi, bz <- layers.{i}.mixer.in_proj.bias
    decoder.layers.{i}.attn.conv <- layers.{i}.mixer.conv1d.weight : taps
    decoder.layers.{i}.attn.{conv_bias,dt_bias,bo} <- layers.{i}.mixer.{conv1d,dt_proj,out_proj}.bias
    decoder.layers.{i}.attn.wdt_a, wb, wc <- layers.{i}.mixer.x_proj.weight : transpose
    decoder.layers.{i}.attn.{wdt,wo} <- layers.{i}.mixer.{dt,out}_proj.weight : transpose
    decoder.layers.{i}.attn.{a_log,skip} <- layers.{i}.mixer.{A_log,D}
""")
# Around the mixers of a stack of such layers alone; Mamba 2's have the same names.
ALONE = weight_map("""
    {embedding,head}.table <- {(embeddings|embedding),lm_head}.weight
    decoder.layers.{i}.attn_pre.weight <- layers.{i}.norm.weight
    decoder.norm.weight <- norm_f.weight
    embedding.table == lm_head.weight
""")

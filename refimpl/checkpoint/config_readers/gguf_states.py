"""Define tables and weight maps for Mamba's and Mamba 2's layers in GGUF. Only the tensors' names show
whether there are biases and norms.
"""

from __future__ import annotations

from ..weights.weight_map import weight_map
from .gguf_keys import COMMON, RMS_EPS, Table, only, quotient, somewhere, without

# Mamba 2's layers among others.
MAMBA2: Table = {
    "mamba_n_heads": "ssm.time_step_rank",
    "mamba_n_groups": "ssm.group_count",
    "mamba_d_state": "ssm.state_size",
    "mamba_d_conv": "ssm.conv_kernel",
    "mamba_conv_bias": somewhere("ssm_conv1d.bias"),
}
EXPANDED: Table = {"mamba_expand": quotient("ssm.inner_size", "embedding_length")}
# A stack of Mamba's or Mamba 2's layers alone, of which the metadata state sizes of mlps and attention as 0.
ALONE: Table = {
    **without(COMMON, "num_attention_heads"),
    "conv_kernel": "ssm.conv_kernel",
    "state_size": "ssm.state_size",
    "use_conv_bias": somewhere("ssm_conv1d.bias"),
    "layer_norm_epsilon": RMS_EPS,
    "feed_forward_length": only("feed_forward_length", 0),
    "attention.head_count": only("attention.head_count", 0),
}


_BOTH = weight_map("""
    decoder.layers.{i}.attn.{conv,wo} <- blk.{i}.ssm_{conv1d,out}.weight : transpose
    decoder.layers.{i}.attn.{conv,dt}_bias <- blk.{i}.ssm_{conv1d,dt}.bias
""")
GGUF_MAMBA = _BOTH + weight_map("""
    decoder.layers.{i}.attn.wi, wz <- blk.{i}.ssm_in.weight : transpose
    decoder.layers.{i}.attn.wdt_a, wb, wc <- blk.{i}.ssm_x.weight : transpose
    decoder.layers.{i}.attn.wdt <- blk.{i}.ssm_dt.weight : transpose
    decoder.layers.{i}.attn.a_log <- blk.{i}.ssm_a : negated_exp
    decoder.layers.{i}.attn.skip <- blk.{i}.ssm_d
    decoder.layers.{i}.attn.{dt,b,c}_norm <- blk.{i}.ssm_{dt,b,c}_norm.weight
""")
GGUF_MAMBA2 = _BOTH + weight_map("""
    decoder.layers.{i}.attn.wz, wi, wdt <- blk.{i}.ssm_in.weight : transpose
    decoder.layers.{i}.attn.a_log <- blk.{i}.ssm_a : flatten negated_exp
    decoder.layers.{i}.attn.skip <- blk.{i}.ssm_d : flatten
    decoder.layers.{i}.attn.norm <- blk.{i}.ssm_norm.weight : flatten
""")
# Of a stack of such layers alone, beside them.
GGUF_ALONE = weight_map("""
    {embedding,head}.table <- {token_embd,output}.weight
    decoder.layers.{i}.attn_pre.weight <- blk.{i}.attn_norm.weight
    decoder.norm.weight <- output_norm.weight
    embedding.table == output.weight
""")

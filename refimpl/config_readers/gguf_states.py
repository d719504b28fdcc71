"""Mamba's and Mamba 2's layers in GGUF.

Their biases and norms show only in the tensors' names. Where steps, keys and queries have norms, these have
the eps of the layers' own: the metadata state one.
"""

from __future__ import annotations

from dataclasses import replace

from ..config import LM, Decoder, Embedding, Layer, NoMlp, RMSNorm, Stack
from ..formats.tensor_source import TensorSource
from ..ops.mamba import Mamba
from ..ops.mamba2 import Mamba2
from ..weights.weight_map import weight_map
from .gguf_keys import Row, Table
from .gguf_metadata import embedding_rows
from .keys import Keys
from .layers import layer_count


def in_some_layer(source: TensorSource, name: str) -> bool:
    """Whether a layer has a tensor of this name; the first one may be of another kind."""
    return any(tensor.endswith(f".{name}") for tensor in source.names)


def gguf_mamba(keys: Keys, source: TensorSource, eps: float) -> Mamba:
    """Mamba's layer, without a norm before it."""
    mixer = Mamba(
        width=keys.size("ssm.inner_size"),
        state_size=keys.size("ssm.state_size"),
        rank=keys.size("ssm.time_step_rank"),
        length=keys.size("ssm.conv_kernel"),
        conv_bias=in_some_layer(source, "ssm_conv1d.bias"),
    )
    if in_some_layer(source, "ssm_dt_norm.weight"):
        return replace(mixer, norms="weighted", eps=eps)
    return replace(mixer, norms="bare", eps=eps) if keys.get("ssm.dt_b_c_rms", bool, False) else mixer


def gguf_mamba2(keys: Keys, source: TensorSource, eps: float) -> Mamba2:
    """Mamba 2's layer, without a norm before it."""
    width, heads = keys.size("ssm.inner_size"), keys.size("ssm.time_step_rank")
    if width % heads:
        raise keys.fail("ssm.inner_size", f"a multiple of ssm.time_step_rank, {heads}")
    return Mamba2(
        heads=heads,
        groups=keys.size("ssm.group_count"),
        state_size=keys.size("ssm.state_size"),
        head_size=width // heads,
        length=keys.size("ssm.conv_kernel"),
        conv_bias=in_some_layer(source, "ssm_conv1d.bias"),
        norm="after_gate" if in_some_layer(source, "ssm_norm.weight") else None,
        eps=eps,
    )


def _expand(keys: Keys, _: TensorSource) -> int:
    width, inner = keys.size("embedding_length"), keys.size("ssm.inner_size")
    if inner % width:
        raise keys.fail("ssm.inner_size", f"a multiple of embedding_length, {width}")
    return inner // width


def _biased(tensor: str) -> Row:
    return Row(lambda _, source: in_some_layer(source, tensor))


# Mamba 2's layers among others.
MAMBA2: Table = {
    "mamba_expand": Row(_expand, "ssm.inner_size"),
    "mamba_n_heads": "ssm.time_step_rank",
    "mamba_n_groups": "ssm.group_count",
    "mamba_d_state": "ssm.state_size",
    "mamba_d_conv": "ssm.conv_kernel",
    "mamba_conv_bias": _biased("ssm_conv1d.bias"),
}


def alone(keys: Keys, source: TensorSource, mixer: Mamba | Mamba2, norm: RMSNorm) -> Decoder:
    """A stack of such layers alone, of which the metadata state sizes of mlps and attention as 0."""
    keys.harmless(**{"feed_forward_length": (0,), "attention.head_count": (0,)})
    layer = Layer(replace(mixer, pre=norm), NoMlp())
    return Decoder(
        embedding=Embedding(embedding_rows(keys, source), keys.size("embedding_length")),
        stack=Stack((layer,) * layer_count(keys, "block_count"), norm),
        head=LM("output.weight" not in source.names),
        context=keys.size("context_length"),
    )


_BOTH = weight_map("""
    decoder.layers.{i}.attn.conv <- blk.{i}.ssm_conv1d.weight : transpose
    decoder.layers.{i}.attn.conv_bias <- blk.{i}.ssm_conv1d.bias
    decoder.layers.{i}.attn.dt_bias <- blk.{i}.ssm_dt.bias
    decoder.layers.{i}.attn.wo <- blk.{i}.ssm_out.weight : transpose
""")
GGUF_MAMBA = _BOTH + weight_map("""
    decoder.layers.{i}.attn.wi, wz <- blk.{i}.ssm_in.weight : transpose
    decoder.layers.{i}.attn.wdt_a, wb, wc <- blk.{i}.ssm_x.weight : transpose
    decoder.layers.{i}.attn.wdt <- blk.{i}.ssm_dt.weight : transpose
    decoder.layers.{i}.attn.a_log <- blk.{i}.ssm_a : negated_exp
    decoder.layers.{i}.attn.skip <- blk.{i}.ssm_d
    decoder.layers.{i}.attn.dt_norm <- blk.{i}.ssm_dt_norm.weight
    decoder.layers.{i}.attn.b_norm <- blk.{i}.ssm_b_norm.weight
    decoder.layers.{i}.attn.c_norm <- blk.{i}.ssm_c_norm.weight
""")
GGUF_MAMBA2 = _BOTH + weight_map("""
    decoder.layers.{i}.attn.wz, wi, wdt <- blk.{i}.ssm_in.weight : transpose
    decoder.layers.{i}.attn.a_log <- blk.{i}.ssm_a : flatten negated_exp
    decoder.layers.{i}.attn.skip <- blk.{i}.ssm_d : flatten
    decoder.layers.{i}.attn.norm <- blk.{i}.ssm_norm.weight : flatten
""")
# Of a stack of such layers alone, beside them.
GGUF_ALONE = weight_map("""
    embedding.table <- token_embd.weight
    decoder.layers.{i}.attn_pre.weight <- blk.{i}.attn_norm.weight
    decoder.norm.weight <- output_norm.weight
    head.table <- output.weight
    embedding.table == output.weight
""")

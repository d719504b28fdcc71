"""ONNX Runtime's fused operators in place of mirror functions: products, tables, and a decoder's attention.

GroupQueryAttention writes the cache in place, MatMulNBits multiplies packed codes, and matmuls of
one input are merged. Each emit takes the leaves of this target's layout (`runtime.bundle.weight_layout`), so its
parameters are the layout's names where these differ from the mirror's.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.onnx import ops as onnx

from ..ops import activation as activations
from ..ops.attention import cached_attention, normed
from .packed_weights import NBits, RowQuantized

Leaf = Tensor | NBits | RowQuantized

MICROSOFT = 1  # version of the com.microsoft operator set
# The smallest divisor of a row: a row of zeros gives codes of zero instead of 0 / 0.
TINY = 1e-30
MIDDLE = 128  # the zero point of a row's codes


def _nbits(x: Tensor, weight: NBits, packed: Tensor) -> Tensor:
    count = weight.scale.shape[0]
    zero = () if weight.zero is None else (weight.zero,)
    return onnx.symbolic(
        "com.microsoft::MatMulNBits",
        (x, packed, weight.scale, *zero),
        {
            "K": weight.length,
            "N": count,
            "bits": weight.bits,
            "block_size": weight.block,
            "accuracy_level": 4,  # 8-bit activations by block: any other level computes in float
        },
        dtype=x.dtype,
        shape=(*x.shape[:-1], count),
        version=MICROSOFT,
    )


def block_sums(x: Tensor, block: int) -> Tensor:
    """Sums of the last axis, block by block: what a minimum multiplies."""
    filler = -x.shape[-1] % block
    if filler:
        x = functional.pad(x, (0, filler))
    return x.unflatten(-1, (-1, block)).sum(-1)


def _minima(x: Tensor, minimum: Tensor, block: int) -> Tensor:
    """What minima add to a product; they are float32 on every target, so that no weight changes."""
    return (block_sums(x.to(minimum.dtype), block) @ minimum).to(x.dtype)


def row_scale(x: Tensor) -> Tensor:
    """One scale a row, [..., 1], which takes its largest magnitude to 127."""
    return x.abs().amax(-1, keepdim=True).clamp(min=TINY) / 127


def row_input(x: Tensor, weight: RowQuantized) -> tuple[Tensor, Tensor]:
    """The input of a product, times its factors, and the scales of its rows."""
    x = x if weight.input_factor is None else x * weight.input_factor
    return x, row_scale(x)


def row_codes(x: Tensor, scale: Tensor) -> Tensor:
    """Codes of a scale a row, with `MIDDLE` added: a row is one block, which takes half of Div's time."""
    return onnx.symbolic(
        "::QuantizeLinear",
        (x, scale, torch.full(scale.shape, MIDDLE, dtype=torch.uint8)),
        {"axis": -1, "block_size": x.shape[-1]},
        dtype=torch.uint8,
        shape=x.shape,
    )


def _row(x: Tensor, weight: RowQuantized) -> Tensor:
    x, scale = row_input(x, weight)
    y = onnx.symbolic(
        "com.microsoft::MatMulIntegerToFloat",
        (
            row_codes(x, scale),
            weight.codes,
            torch.tensor(1.0),  # the operator takes a scale a row too, but multiplies with one thread
            weight.scale,
            torch.tensor(MIDDLE, dtype=torch.uint8),
            None,
        ),
        dtype=x.dtype,
        shape=(*x.shape[:-1], weight.codes.shape[1]),
        version=MICROSOFT,
    )
    return y * scale


def inputs(weight: Leaf) -> int:
    """How wide the input of a product is."""
    match weight:
        case NBits():
            return weight.length
        case RowQuantized():
            return weight.codes.shape[0]
        case _:
            return weight.shape[0]


def linear(x: Tensor, weight: Leaf, bias: Tensor | None = None) -> Tensor:
    match weight:
        case NBits():
            y = _nbits(x, weight, weight.packed)
            if weight.minimum is not None:
                # As a float zero point it would leave the kernel's fast path.
                y = y + _minima(x, weight.minimum, weight.block)
        case RowQuantized():
            y = _row(x, weight)
        case _:
            y = x @ weight
    return y if bias is None else y + bias


def embedding(tokens: Tensor, table: Leaf) -> Tensor:
    if not isinstance(table, NBits):
        assert isinstance(table, Tensor)
        return functional.embedding(tokens, table)
    zero = () if table.zero is None else (table.zero,)
    x = onnx.symbolic(
        "com.microsoft::GatherBlockQuantized",
        (table.packed, tokens, table.scale, *zero),
        {"bits": table.bits, "block_size": table.block, "gather_axis": 0, "quantize_axis": 1},
        dtype=table.scale.dtype,
        shape=(*tokens.shape, table.scale.shape[1] * table.block),
        version=MICROSOFT,
    )
    if table.length % table.block:
        x = x[..., : table.length]  # the filler of a short last block
    if table.minimum is None:
        return x
    minima = functional.embedding(tokens, table.minimum).repeat_interleave(table.block, dim=-1)
    return (x + minima[..., : table.length]).to(x.dtype)


def unembedding(x: Tensor, table: Leaf) -> Tensor:
    if isinstance(table, NBits):
        # MatMulNBits wants three axes and the embedding two. Reshaped on this side, the folded copy
        # is freed after packing, and the table itself stays a mapped file.
        y = _nbits(x, table, table.packed.reshape(table.packed.shape[0], table.scale.shape[1], -1))
        if table.minimum is None:
            return y
        return y + _minima(x, table.minimum.T, table.block)
    assert isinstance(table, Tensor)
    # A Transpose would be folded into a second copy of the table in memory.
    return onnx.symbolic(
        "com.microsoft::FusedMatMul",
        (x, table),
        {"transB": 1},
        dtype=x.dtype,
        shape=(*x.shape[:-1], table.shape[0]),
        version=MICROSOFT,
    )


def gated_mlp(
    x: Tensor,
    *,
    down: Leaf,
    gate_up: Leaf | None = None,
    gate: Leaf | None = None,
    up: Leaf | None = None,
    bgate_up: Tensor | None = None,
    bgate: Tensor | None = None,
    bup: Tensor | None = None,
    bdown: Tensor | None = None,
    kind: Any,
) -> Tensor:
    if gate_up is not None:
        left, right = linear(x, gate_up, bgate_up).chunk(2, dim=-1)
    else:
        assert gate is not None
        assert up is not None
        left, right = linear(x, gate, bgate), linear(x, up, bup)
    return linear(activations.activation(left, kind=kind) * right, down, bdown)


def bounded(x: Tensor, clip: float | None) -> Tensor:
    return x if clip is None else x.clamp(-clip, clip)


def attention(
    x: Tensor,
    past_k: Tensor,
    past_v: Tensor,
    past: Tensor,
    *,
    wo: Leaf,
    wqkv: Leaf | None = None,
    wq: Leaf | None = None,
    wk: Leaf | None = None,
    wv: Leaf | None = None,
    bqkv: Tensor | None = None,
    bq: Tensor | None = None,
    bk: Tensor | None = None,
    bv: Tensor | None = None,
    bo: Tensor | None = None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    bias: Tensor | None = None,
    norm_eps: float = 1e-6,
    norm_kind: Literal["rms", "layer"] = "rms",
    clip: float | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    interleaved: bool = False,
    held: Mapping[int, Tensor] = MappingProxyType({}),
    fused: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    batch, time, _ = x.shape
    groups, size = past_k.shape[1], past_k.shape[3]
    heads = inputs(wo) // size
    widths = [heads * size, groups * size, groups * size]
    q: Tensor
    k: Tensor | None
    v: Tensor | None
    if wqkv is not None:
        q, k, v = bounded(linear(x, wqkv, bqkv), clip), None, None
        if q_norm is not None or not fused:
            q, k, v = q.split(widths, dim=-1)
    else:
        assert wq is not None
        assert wk is not None
        assert wv is not None
        q, k, v = (bounded(linear(x, w, b), clip) for w, b in ((wq, bq), (wk, bk), (wv, bv)))
    if q_norm is not None:
        assert k is not None
        assert k_norm is not None
        # The operator's own norm inputs exist on CUDA only.
        q = normed(q, q_norm, size=size, kind=norm_kind, eps=norm_eps).reshape(batch, time, widths[0])
        k = normed(k, k_norm, size=size, kind=norm_kind, eps=norm_eps).reshape(batch, time, widths[1])
    if not fused:
        assert k is not None
        assert v is not None
        y, k_cache, v_cache = cached_attention(
            q.reshape(batch, time, heads, size),
            k.reshape(batch, time, groups, size),
            v.reshape(batch, time, groups, size),
            past_k, past_v, past, cos, sin, bias, k_scale, v_scale,
            window=window, scale=scale, softcap=softcap, interleaved=interleaved,
        )  # fmt: skip
        return linear(y.reshape(batch, time, widths[0]), wo, bo), k_cache, v_cache
    positions = None
    if window is not None and window in held:
        # The cache begins with the latest tokens that its window may still need, so places in it aren't
        # positions. The operator would drop old tokens itself (sliding_window_cache), but after that it
        # holds no more than the window, and on CUDA never more: no drafted token could be cut back.
        if cos is not None:
            positions = past.unsqueeze(-1) + torch.arange(time)
        past = held[window]
    # Places count to the padded end of a row: under a causal mask padding is never seen.
    seqlens = (past + (time - 1)).to(torch.int32)
    total = (past.max() + time).to(torch.int32)
    attributes: dict[str, Any] = {
        "num_heads": heads,
        "kv_num_heads": groups,
        "scale": size**-0.5 if scale is None else scale,
    }
    if cos is not None:
        attributes |= {"do_rotary": 1, "rotary_interleaved": int(interleaved)}
    if window is not None:
        attributes["local_window_size"] = window
    if softcap is not None:
        attributes["softcap"] = softcap
    if k_scale is not None:
        attributes |= {"k_quant_type": "PER_CHANNEL", "v_quant_type": "PER_CHANNEL", "kv_cache_bit_width": 8}
    y, k_cache, v_cache = onnx.symbolic_multi_out(
        "com.microsoft::GroupQueryAttention",
        (q, k, v, past_k, past_v, seqlens, total, cos, sin, positions, None, None, k_scale, v_scale),
        attributes,
        dtypes=(x.dtype, past_k.dtype, past_v.dtype),
        shapes=((batch, time, widths[0]), past_k.shape, past_v.shape),
        version=MICROSOFT,
    )
    return linear(y, wo, bo), k_cache, v_cache

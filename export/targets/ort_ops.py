"""Replace products, tables and gated mlps by ONNX Runtime's operators.

MatMulNBits multiplies packed codes, and products with the same input are merged. A function here has the
signature of the op that it replaces. The function's parameters have the form in which this target stores them
(`runtime.bundle.weight_storage`): packed, and joined if several of them multiply the same input.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from torch.nn import functional
from torch.onnx import ops as onnx

from ...refimpl.config import Gate
from ...refimpl.ops.gaussian_topk import gaussian_topk
from ...refimpl.ops.mlp import glu
from ...refimpl.ops.norm import rms_norm
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
            "accuracy_level": 4 if weight.rounds_input else 0,  # any other level than 4 computes in float
        },
        dtype=x.dtype,
        shape=(*x.shape[:-1], count),
        version=MICROSOFT,
    )


def block_sums(x: Tensor, block: int) -> Tensor:
    """Return the sums of x over each block of the last axis. A product adds these sums times the minima of
    the weight's blocks.

    The sums are computed as products with ones. ONNX Runtime's ReduceSum doesn't reduce the shape of an empty
    input, such as the input of an expert that no token chose.
    """
    filler = -x.shape[-1] % block
    if filler:
        x = functional.pad(x, (0, filler))
    return (x.unflatten(-1, (-1, block)) @ torch.ones(block, 1, dtype=x.dtype)).squeeze(-1)


def _minima(x: Tensor, minimum: Tensor, block: int) -> Tensor:
    """Return what the minima of a weight's blocks add to the product of x and the weight. Minima are float32
    on every target, so that no weight changes.
    """
    return (block_sums(x.to(minimum.dtype), block) @ minimum).to(x.dtype)


def row_scale(x: Tensor) -> Tensor:
    """Return the scale of each row, [..., 1], which maps the row's largest magnitude to 127."""
    return x.abs().amax(-1, keepdim=True).clamp(min=TINY) / 127


def row_input(x: Tensor, weight: RowQuantized) -> tuple[Tensor, Tensor]:
    """Return the input of a product, multiplied by the weight's input factors if it has any, and the scale of
    each row.
    """
    x = x if weight.input_factor is None else x * weight.input_factor
    return x, row_scale(x)


def row_codes(x: Tensor, scale: Tensor) -> Tensor:
    """Return the 8-bit codes of x with one scale for each row. The zero point is `MIDDLE`, so `MIDDLE` is
    added to every code.

    Each row is one block of QuantizeLinear, which halves the time of the division.
    """
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
    if isinstance(table, RowQuantized):
        codes = table.codes.index_select(1, tokens.flatten()).T.view(*tokens.shape, -1)
        return codes.to(table.scale.dtype) * functional.embedding(tokens, table.scale[:, None])
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
        # MatMulNBits wants three axes and the embedding two: a pass makes an initializer of this shape.
        y = _nbits(x, table, table.packed.view(table.packed.shape[0], table.scale.shape[1], -1))
        if table.minimum is None:
            return y
        return y + _minima(x, table.minimum.T, table.block)
    if isinstance(table, RowQuantized):
        return _row(x, table)
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


class GatedMlpLeaves(TypedDict):
    """The parameters of a gated mlp in the form that this target stores: one joined matrix for gate and up,
    or two matrices.
    """

    gate_up: NotRequired[Leaf]
    gate: NotRequired[Leaf]
    up: NotRequired[Leaf]
    down: Leaf
    bgate_up: NotRequired[Tensor]
    bgate: NotRequired[Tensor]
    bup: NotRequired[Tensor]
    bdown: NotRequired[Tensor]
    down_norm: NotRequired[Tensor]


def gated_mlp(
    x: Tensor,
    weights: GatedMlpLeaves,
    *,
    kind: Gate,
    gate_scale: float | None = None,
    sparsity: float | None = None,
    norm_eps: float = 1e-6,
) -> Tensor:
    if "gate_up" in weights:
        joined = linear(x, weights["gate_up"], weights.get("bgate_up"))
        gate, up = joined.split(joined.shape[-1] // 2, dim=-1)
    else:
        assert "gate" in weights
        assert "up" in weights
        gate = linear(x, weights["gate"], weights.get("bgate"))
        up = linear(x, weights["up"], weights.get("bup"))
    gate = gate if gate_scale is None else gate_scale * gate
    gate = gate if sparsity is None else gaussian_topk(gate, share=sparsity)
    hidden = glu(gate, up, kind)
    if "down_norm" in weights:
        hidden = rms_norm(hidden, weights["down_norm"], eps=norm_eps)
    return linear(hidden, weights["down"], weights.get("bdown"))


def bounded(x: Tensor, clip: float | None) -> Tensor:
    return x if clip is None else x.clamp(-clip, clip)

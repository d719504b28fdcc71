"""Define the functions that replace ops for the target `standard`, which uses only operators of ai.onnx, so
that any runtime can run its graphs.

The ops' implementations in PyTorch are already exported as ai.onnx operators. Only quantized weights and
float16 need replacements. In float16, norms and softmax are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional
from torch.onnx import ops as onnx

from ...refimpl.ops.adaptive_softmax import log_softmax
from ...refimpl.ops.attention import softmax
from ...refimpl.ops.norm import layer_norm, rms_norm
from ..dispatch import body
from . import recurrence
from .ort_ops import MIDDLE, block_sums, row_input
from .packed_weights import Blocked, RowQuantized, Static

Leaf = Tensor | Blocked | RowQuantized | Static


def _in_bytes(codes: Tensor, weight: Blocked) -> Tensor:
    """Return codes or zero points with 8 bits each. Few operators take 4-bit types, and these operators are
    slow.
    """
    if weight.bits == 8:
        return codes
    to = TensorProto.INT8 if weight.zero is None else TensorProto.UINT8
    return onnx.symbolic("::Cast", (codes,), {"to": to}, dtype=codes.dtype, shape=codes.shape)


def _dequantize(weight: Blocked, axis: int) -> Tensor:
    """Return a weight as floats. `axis` is the axis that is cut into blocks.

    From DequantizeLinear and MatMul alone, ONNX Runtime would make MatMulNBits, which rounds the product's
    input to codes unless an option of the session forbids this. So the blocks of a matrix get an axis of
    their own before DequantizeLinear, and the result is reshaped. OpenVINO needs whole blocks in such an
    axis, so a weight with a shorter last block is dequantized by arithmetic.
    """
    codes, zero, shape = weight.codes, weight.zero, weight.codes.shape
    if shape[axis] % weight.block:
        zero = None if zero is None else _in_bytes(zero, weight)
        return _times_scales(_in_bytes(codes, weight), weight.scale, zero, weight.block, axis)

    def split(x: Tensor) -> Tensor:
        return x.view(shape[0] // weight.block, -1, shape[1]) if axis == 0 else x

    codes, scale = _in_bytes(split(codes), weight), split(weight.scale)
    w = onnx.symbolic(
        "::DequantizeLinear",
        (codes, scale) if zero is None else (codes, scale, _in_bytes(split(zero), weight)),
        {"axis": 1, "block_size": weight.block},
        dtype=scale.dtype,
        shape=codes.shape,
    )
    return w.view(shape) if axis == 0 else w


def _times_scales(codes: Tensor, scale: Tensor, zero: Tensor | None, block: int, axis: int) -> Tensor:
    """Dequantize codes with basic arithmetic: (code − zero) · scale. The axis may have any length, so the
    last block may be short.
    """

    def of_each(per_block: Tensor) -> Tensor:
        return per_block.repeat_interleave(block, dim=axis).narrow(axis, 0, codes.shape[axis])

    x = codes.to(scale.dtype)
    if zero is not None:
        x = x - of_each(zero.to(scale.dtype))
    return x * of_each(scale)


def row_codes(x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the 8-bit codes of x with one scale for each row, and their zero point.

    Rows are divided by their scales before QuantizeLinear, because few runtimes allow scales that are
    computed at run time.
    """
    one, middle = torch.tensor(1.0), torch.tensor(MIDDLE, dtype=torch.uint8)
    operands = x / scale, one, middle
    return onnx.symbolic("::QuantizeLinear", operands, dtype=torch.uint8, shape=x.shape), middle


def _row(x: Tensor, weight: RowQuantized) -> Tensor:
    x, scale = row_input(x, weight)
    codes, middle = row_codes(x, scale)
    dots = onnx.symbolic(
        "::MatMulInteger",
        (codes, weight.codes, middle),
        dtype=torch.int32,
        shape=(*x.shape[:-1], weight.codes.shape[1]),
    )
    return dots.to(x.dtype) * weight.scale * scale


def _static(x: Tensor, weight: Static, axis: int) -> Tensor:
    """Compute a product of integers in the form that compilers for devices recognize and fuse into one
    integer product.

    The input goes through QuantizeLinear and DequantizeLinear, and the weight through DequantizeLinear, into
    a MatMul. If the weight has an output scale, the output goes through QuantizeLinear and DequantizeLinear
    too.
    """
    x = _rounded(x, weight.input_scale, weight.input_zero)
    w = onnx.symbolic(
        "::DequantizeLinear",
        (weight.codes, weight.scale),
        {"axis": axis},
        dtype=x.dtype,
        shape=weight.codes.shape,
    )
    y = x @ (w if axis == 1 else w.T)
    if weight.output_scale is None or weight.output_zero is None:
        return y
    return _rounded(y, weight.output_scale, weight.output_zero)


def _rounded(x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Round x to codes and back, with QuantizeLinear and DequantizeLinear. The codes have the type of the
    zero point.
    """
    codes = onnx.symbolic("::QuantizeLinear", (x, scale, zero), dtype=zero.dtype, shape=x.shape)
    return onnx.symbolic("::DequantizeLinear", (codes, scale, zero), dtype=x.dtype, shape=x.shape)


def linear(x: Tensor, weight: Leaf, bias: Tensor | None = None) -> Tensor:
    match weight:
        case Blocked():
            y = x @ _dequantize(weight, 0)
            if weight.minimum is not None:
                y = y + block_sums(x, weight.block) @ weight.minimum
        case RowQuantized():
            y = _row(x, weight)
        case Static():
            y = _static(x, weight, 1)
        case _:
            y = x @ weight
    return y if bias is None else y + bias


def embedding(tokens: Tensor, table: Leaf) -> Tensor:
    if isinstance(table, Static):
        codes, scale = (
            functional.embedding(tokens, table.codes),
            functional.embedding(tokens, table.scale[:, None]),
        )
        return codes.to(scale.dtype) * scale
    if not isinstance(table, Blocked):
        assert isinstance(table, Tensor)
        return functional.embedding(tokens, table)

    def rows(codes: Tensor) -> Tensor:
        return functional.embedding(tokens, _in_bytes(codes, table))

    zero = None if table.zero is None else rows(table.zero)
    scale = functional.embedding(tokens, table.scale)
    x = _times_scales(rows(table.codes), scale, zero, table.block, -1)
    if table.minimum is None:
        return x
    return (
        x
        + functional.embedding(tokens, table.minimum).repeat_interleave(table.block, dim=-1)[
            ..., : x.shape[-1]
        ]
    )


def unembedding(x: Tensor, table: Leaf) -> Tensor:
    if isinstance(table, Static):
        return _static(x, table, 0)
    if not isinstance(table, Blocked):
        assert isinstance(table, Tensor)
        return x @ table.T
    y = x @ _dequantize(table, 1).T
    if table.minimum is None:
        return y
    return y + block_sums(x, table.block) @ table.minimum.T


def _in_float32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes an op's PyTorch implementation in float32. The result is rounded back
    to the type of the first argument.
    """

    def wide(value: Any) -> Any:
        return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value

    def widened(x: Tensor, *arguments: Any, **settings: Any) -> Tensor:
        wide_settings = {name: wide(value) for name, value in settings.items()}
        return body(function)(wide(x), *map(wide, arguments), **wide_settings).to(x.dtype)

    return widened


EMITS = {
    "linear": linear,
    "embedding": embedding,
    "unembedding": unembedding,
    "rms_norm": _in_float32(rms_norm),
    "layer_norm": _in_float32(layer_norm),
    **recurrence.EMITS,
    "log_softmax": _in_float32(log_softmax),
    "softmax": _in_float32(softmax),
}

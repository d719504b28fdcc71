"""The ops of the one forward pass that the kernels compute by steps of their own: a table for `dispatch.use`.

What isn't here the specification itself says to the bit: products of codes (`linear_blocks`), rows of a table
(`rows`), rotations, caches in float16 and in codes, and sums and products of numbers at one place. Products
of codes are here to be computed by several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy import ndarray as Array

from ....refimpl.ops import attention, quant
from ....refimpl.ops.dispatch import body
from ....refimpl.ops.quant import Blocks
from ...hardware import threads
from ...parallel import in_threads
from . import written_out
from .arithmetic import (
    bounded_exp,
    each_row,
    exp,
    fma,
    gelu,
    gelu_tanh,
    in_lanes,
    query_factors,
    row_sum,
    sigmoid,
    silu,
    softplus,
    tanh,
    xielu,
)
from .attention import attend
from .recurrence import gated_delta_rule, l2_norm, selective_scan, ssd_recurrent

MANY = 16  # rows of a product that several threads compute sooner


def rms_norm(x: Array, weight: Array | None = None, *, eps: float) -> Array:
    """(x · (1 / sqrt(mean of squares + eps))) · weight."""
    y = x * _factor(in_lanes(x, x), x.shape[-1], eps)
    return y if weight is None else y * weight


def layer_norm(x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float) -> Array:
    """The same of x - mean, plus the bias."""
    centred = x - (in_lanes(x) / np.float32(x.shape[-1]))[..., None]
    y = centred * _factor(in_lanes(centred, centred), x.shape[-1], eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _factor(squares: Array, width: int, eps: float) -> Array:
    return (1 / np.sqrt(squares / np.float32(width) + np.float32(eps)))[..., None]


def softmax(scores: Array, mask: Array | None = None, sink: Array | None = None) -> Array:
    """exp(x - the largest), divided by their sum in lanes; with a mask or a sink no kernel computes it."""
    if mask is not None or sink is not None:
        return body(attention.softmax)(scores, mask, sink)
    weights = exp(scores - scores.max(-1, keepdims=True))
    return weights / row_sum(weights)


def causal_conv(x: Array, kernel: Array, tail: Array | None = None, bias: Array | None = None) -> Array:
    """The first product, then by fma those after it, then the bias."""
    tokens, length = x.shape[1], len(kernel)
    before = np.zeros((len(x), length - 1, x.shape[2]), x.dtype) if tail is None else tail
    inputs = np.concatenate([before, x], axis=1)
    y = inputs[:, :tokens] * kernel[0]
    for j in range(1, length):
        y = fma(inputs[:, j : j + tokens], kernel[j], y)
    return y if bias is None else y + bias


def blocks_of_products(x: Array, codes: Array, scale: Array, weight: Blocks) -> Array:
    """Those of the specification, some columns at a time."""

    def compute(columns: slice) -> Array:
        sides = ("codes", "scale", "zero", "minimum")
        some = {name: a[:, columns] for name in sides if (a := getattr(weight, name)) is not None}
        return body(quant.blocks_of_products)(x, codes, scale, replace(weight, **some))

    count = threads() if len(x) >= MANY else 1
    size = -(-weight.shape[1] // count)
    return np.concatenate(
        in_threads(compute, [slice(i * size, (i + 1) * size) for i in range(count)]), axis=1
    )


KERNEL_OPS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            attend,
            blocks_of_products,
            causal_conv,
            each_row,
            gated_delta_rule,
            gelu,
            gelu_tanh,
            l2_norm,
            layer_norm,
            query_factors,
            rms_norm,
            row_sum,
            selective_scan,
            sigmoid,
            silu,
            softmax,
            softplus,
            ssd_recurrent,
            tanh,
            xielu,
        )
    }
    | {"exp": bounded_exp, "precise_silu": silu}
)
# The same where a decoder's attention is written out in the graph.
WRITTEN_OUT: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {**KERNEL_OPS, "attend": written_out.attend, "absorbed_attend": written_out.absorbed_attend}
)

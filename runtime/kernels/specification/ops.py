"""Define the kernels' own versions of some ops, as a table for `dispatch.use`.

For all other ops, the specification already computes the same bits as the kernels. These ops are products
of codes (`linear_blocks`), rows of a table (`rows`), rotations, caches in float16 and in codes, and
elementwise sums and products. Products of codes are in the table only so that several threads compute
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy import ndarray as Array

from ....refimpl.config import Config
from ....refimpl.ops import (
    activation,
    arrays,
    attention,
    banded,
    bigbird,
    convbert,
    cross_attention,
    delta,
    disentangled,
    latent_attention,
    longformer,
    mobilebert,
    norm,
    position,
    quant,
    quantized_cache,
    selective_scan,
    short_conv,
    ssd,
)
from ....refimpl.ops.dispatch import body, use
from ....refimpl.ops.quant import Blocks
from ...bundle import operator_limits
from ...hardware import threads
from ...parallel import in_threads
from . import arithmetic, recurrence, written_out
from .arithmetic import exp, fma, in_lanes, row_sum
from .attention import attend

MANY = 16  # rows of a product that several threads compute sooner


def rms_norm(x: Array, weight: Array | None = None, *, eps: float) -> Array:
    """Return (x · (1 / sqrt(mean of squares + eps))) · weight, with the squares summed in 16 lanes."""
    y = x * _factor(in_lanes(x, x), x.shape[-1], eps)
    return y if weight is None else y * weight


def layer_norm(x: Array, weight: Array | None = None, bias: Array | None = None, *, eps: float) -> Array:
    """Subtract the mean from x, compute `rms_norm` of the difference, and add the bias."""
    centred = x - (in_lanes(x) / np.float32(x.shape[-1]))[..., None]
    y = centred * _factor(in_lanes(centred, centred), x.shape[-1], eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _factor(squares: Array, width: int, eps: float) -> Array:
    return (1 / np.sqrt(squares / np.float32(width) + np.float32(eps)))[..., None]


def softmax(scores: Array, mask: Array | None = None, sink: Array | None = None) -> Array:
    """Return exp(x - the largest), divided by the sum in 16 lanes. With a mask or a sink, which no kernel
    computes, call the specification's softmax.
    """
    if mask is not None or sink is not None:
        return body(attention.softmax)(scores, mask, sink)
    weights = exp(scores - scores.max(-1, keepdims=True))
    return weights / row_sum(weights)


def causal_conv(x: Array, kernel: Array, tail: Array | None = None, bias: Array | None = None) -> Array:
    """Compute a causal convolution: begin with the first product, add the others by `fma` in order, then add
    the bias.
    """
    tokens, length = x.shape[1], len(kernel)
    before = np.zeros((len(x), length - 1, x.shape[2]), x.dtype) if tail is None else tail
    inputs = np.concatenate([before, x], axis=1)
    y = inputs[:, :tokens] * kernel[0]
    for j in range(1, length):
        y = fma(inputs[:, j : j + tokens], kernel[j], y)
    return y if bias is None else y + bias


def hadamard(x: Array) -> Array:
    """Multiply x by the Hadamard matrix in floating point."""
    matrix = quantized_cache.hadamard_matrix(x.shape[-1])
    return arithmetic.each_row(x, matrix.astype(np.float32))


def blocks_of_products(x: Array, codes: Array, scale: Array, weight: Blocks) -> Array:
    """Compute the specification's products of codes, with a part of the columns in each thread."""

    def compute(columns: slice) -> Array:
        sides = ("codes", "scale", "zero", "minimum")
        some = {name: a[:, columns] for name in sides if (a := getattr(weight, name)) is not None}
        return body(quant.blocks_of_products)(x, codes, scale, replace(weight, **some))

    count = threads() if len(x) >= MANY else 1
    size = -(-weight.shape[1] // count)
    return np.concatenate(
        in_threads(compute, [slice(i * size, (i + 1) * size) for i in range(count)]), axis=1
    )


# Ops and what kernels compute in their places. Naming an op loads its module: a Config loads those of
# its own mixers alone.
_PAIRS: tuple[tuple[Callable[..., Any], Callable[..., Any]], ...] = (
    (attention.attend, attend),
    (attention.softmax, softmax),
    (arrays.each_row, arithmetic.each_row),
    (arrays.exp, arithmetic.bounded_exp),
    (arrays.row_sum, arithmetic.row_sum),
    (arrays.softplus, arithmetic.softplus),
    (arrays.token_sum, arithmetic.token_sum),
    (activation.gelu, arithmetic.gelu),
    (activation.gelu_tanh, arithmetic.gelu_tanh),
    (activation.precise_silu, arithmetic.silu),
    (activation.sigmoid, arithmetic.sigmoid),
    (activation.silu, arithmetic.silu),
    (activation.tanh, arithmetic.tanh),
    (activation.xielu, arithmetic.xielu),
    (banded.banded_attend, written_out.banded_attend),
    (bigbird.bigbird_attend, written_out.bigbird_attend),
    (delta.gated_delta_rule, recurrence.gated_delta_rule),
    (disentangled.distance_scores, written_out.distance_scores),
    (norm.l2_norm, recurrence.l2_norm),
    (norm.layer_norm, layer_norm),
    (norm.rms_norm, rms_norm),
    (position.query_factors, arithmetic.query_factors),
    (position.rope_frequencies, arithmetic.rope_frequencies),
    (position.sinusoidal, arithmetic.sinusoidal),
    (quant.blocks_of_products, blocks_of_products),
    (quantized_cache.hadamard, hadamard),
    (selective_scan.selective_scan, recurrence.selective_scan),
    (short_conv.causal_conv, causal_conv),
    (ssd.ssd_recurrent, recurrence.ssd_recurrent),
)
KERNEL_OPS: Mapping[str, Callable[..., Any]] = MappingProxyType({op.__name__: f for op, f in _PAIRS})


# The same where attention is written out in the graph.
WRITTEN_OUT: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        **KERNEL_OPS,
        attention.attend.__name__: written_out.attend,
        latent_attention.absorbed_attend.__name__: written_out.absorbed_attend,
    }
)


def _half_cross_keys(*arguments: Any, **settings: Any) -> tuple[Array, Array]:
    """Keys and values of an encoder's output, rounded to float16; too large ones are infinite."""
    keys, values = body(cross_attention.cross_keys)(*arguments, **settings)
    with np.errstate(over="ignore"):
        return keys.astype(np.float16).astype(keys.dtype), values.astype(np.float16).astype(values.dtype)


# The ops that replace others of the same name if an encoder's keys and values are float16.
HALVED: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {cross_attention.cross_keys.__name__: _half_cross_keys}
)


def _with(op: Callable[..., Any], ops: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Return a table with one op, which runs with the table `ops`."""

    def compute(*arguments: Any, **settings: Any) -> Any:
        with use(ops):
            return body(op)(*arguments, **settings)

    return {op.__name__: compute}


def of_texts(config: Config) -> Mapping[str, Callable[..., Any]]:
    """Return the table of ops for functions that read whole texts."""
    decodes = "decoder" in config.stacks
    limits = operator_limits.multi_head(config) or (not decodes and operator_limits.group_query(config))
    # Without a tail no kernel computes a convolution.
    apart = {**WRITTEN_OUT, short_conv.causal_conv.__name__: body(short_conv.causal_conv)}
    return {
        **(WRITTEN_OUT if limits else KERNEL_OPS),
        **_with(convbert.convbert_attention, apart),
        **_with(latent_attention.latent_self_attention, WRITTEN_OUT),
        **_with(longformer.longformer_attention, WRITTEN_OUT),
        **_with(mobilebert.mobilebert_bottleneck, WRITTEN_OUT),
    }


def of_steps(config: Config) -> Mapping[str, Callable[..., Any]]:
    """Return the table of ops for a decoder's steps. Cross-attention uses the table for whole texts."""
    own = WRITTEN_OUT if operator_limits.group_query(config) else KERNEL_OPS
    return {**own, **_with(cross_attention.cross_attention, of_texts(config))}

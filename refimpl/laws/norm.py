"""Laws of normalizations."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law


@law("layer_norm")
def the_mean_is_subtracted(layer_norm: Subject, draw: Draw) -> None:
    """Adding a number to all elements of a token doesn't change its `layer_norm`. Without weights, the
    result's mean is 0."""
    call = draw(layer_norm.calls())
    # In steps such that the sum is exact: a rounded one would be another token.
    call = call.but(x=np.round(call["x"] * 256) / 256)
    shifted = call.but(x=call["x"] + 2)
    layer_norm.near(layer_norm(shifted), layer_norm(call), call, shifted)
    plain = call.but(weight=None, bias=None)
    y = layer_norm(plain)
    layer_norm.near(y.sum(-1), np.zeros(y.shape[:-1]), plain, times=y.shape[-1])


@law("layer_norm", "rms_norm")
def the_mean_square_is_one(norm: Subject, draw: Draw) -> None:
    """Without weights, the mean square of a normalized token is m / (m + eps). Here m is the token's own
    mean square, which `layer_norm` takes after it subtracts the mean.
    """
    call = draw(norm.calls())
    plain = call.but(weight=None)
    x = call["x"].astype(np.float64)
    if norm.f.name == "layer_norm":
        plain = plain.but(bias=None)
        x = x - x.mean(-1, keepdims=True)
    square = (x * x).mean(-1)
    y = norm(plain)
    # d(y²) is 2 y dy, and y is at most √D.
    norm.near((y * y).mean(-1), square / (square + call["eps"]), plain, times=2 * y.shape[-1] ** 0.5)


@law("layer_norm", "rms_norm", "affine")
def the_weight_and_the_bias_come_last(norm: Subject, draw: Draw) -> None:
    """Doubling a norm's weight doubles its result without the bias. The bias is added unchanged."""
    call = draw(norm.calls(weight=True))
    twice = call.but(weight=2 * call["weight"])
    bias = call.arrays.get("bias")
    added = 0 if bias is None else bias
    norm.near(norm(twice) - added, 2 * (norm(call) - added), call, call, twice)


@law("layer_norm", "rms_norm")
def no_weight_is_a_weight_of_ones(norm: Subject, draw: Draw) -> None:
    """A norm without a learned factor equals a norm whose factor is 1."""
    call = draw(norm.calls(weight=None))
    ones = call.but(weight=np.ones(call["x"].shape[-1], norm.dtype))
    norm.near(norm(ones), norm(call), call, ones)


@law("rms_norm")
def a_scale_of_the_token_changes_nothing(rms_norm: Subject, draw: Draw) -> None:
    """With a tiny eps, `rms_norm` gives the same result for 4 x as for x."""
    call = draw(rms_norm.calls(eps=1e-30))
    larger = call.but(x=4 * call["x"])
    rms_norm.near(rms_norm(larger), rms_norm(call), larger, call)


@law("l2_norm")
def the_length_is_one(l2_norm: Subject, draw: Draw) -> None:
    """The squared length of the result of `l2_norm` is m / (m + eps), where m is the squared length of the
    vector.
    """
    call = draw(l2_norm.calls())
    square = (call["x"].astype(np.float64) ** 2).sum(-1)
    y = l2_norm(call)
    l2_norm.near((y * y).sum(-1), square / (square + call["eps"]), call, times=2 * y.shape[-1])

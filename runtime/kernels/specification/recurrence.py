"""Specify layers with a state as the kernels compute them. kernels.h states the order in which numbers are
rounded.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray as Array

from .arithmetic import add_products, exp, fma, in_lanes


def l2_norm(x: Array, *, eps: float) -> Array:
    """Return x divided by its length, as x · (1 / sqrt(sum of squares + eps)), with the squares summed in 16
    lanes.
    """
    return x * (1 / np.sqrt(in_lanes(x, x) + np.float32(eps)))[..., None]


def gated_delta_rule(
    q: Array, k: Array, v: Array, state: Array, decay: Array, beta: Array
) -> tuple[Array, Array]:
    """Update the state S for each token and return the outputs y and the last state.

    S = exp(decay) S + k uᵀ by `fma`, u = beta (v - (exp(decay) k) S), y = (q / sqrt(K)) S.
    """
    return _recurrence(q * np.float32(q.shape[-1] ** -0.5), k, v, state, decay, beta)


def ssd_recurrent(x: Array, decay: Array, b: Array, c: Array, state: Array) -> tuple[Array, Array]:
    """Compute `gated_delta_rule` without beta and without the scale 1 / sqrt(K).

    For heads with one value each and shared keys, compute `selective_scan`, because the kernels then sum
    in that order.
    """
    share = x.shape[2] // b.shape[2]
    if x.shape[3] == b.shape[2] == 1:
        y, kept = _scan(x[..., 0], decay[..., None], b[:, :, 0], c[:, :, 0], state[..., 0])
        return y[..., None], kept[..., None]
    return _recurrence(np.repeat(c, share, axis=2), np.repeat(b, share, axis=2), x, state, decay)


def selective_scan(
    x: Array, step: Array, rates: Array, b: Array, c: Array, state: Array
) -> tuple[Array, Array]:
    """Update the state h for each token and return the outputs y and the last state.

    h = exp(rates step) h + (step x) b by `fma`; y is the sum of c h in 16 lanes.
    """
    return _scan(step * x, step[..., None] * rates, b, c, state)


def _recurrence(
    q: Array, k: Array, v: Array, state: Array, decay: Array, beta: Array | None = None
) -> tuple[Array, Array]:
    batch, tokens, heads, size = q.shape
    y, state = np.zeros_like(v), np.ascontiguousarray(state)

    def through(vectors: Array) -> Array:
        """Return [B, H, V]: the sums over the keys, in order, of `vectors` [B, H, K] times the state."""
        sums = np.zeros((batch * heads, 1, v.shape[3]), np.float32)
        rows = vectors.reshape(-1, size).T[..., None]
        add_products(sums, rows, state.reshape(-1, size, v.shape[3]).swapaxes(0, 1))
        return sums.reshape(batch, heads, -1)

    for t in range(tokens):
        factor = exp(decay[:, t]).reshape(batch, heads, -1)
        new = v[:, t]
        if beta is not None:
            new = beta[:, t, :, None] * (new - through(factor * k[:, t]))
        state = fma(k[:, t, :, :, None], new[:, :, None], factor[..., None] * state)
        y[:, t] = through(q[:, t])
    return y, state


def _scan(x: Array, decay: Array, b: Array, c: Array, state: Array) -> tuple[Array, Array]:
    y = np.zeros_like(x)
    for t in range(x.shape[1]):
        state = fma(b[:, t, None], x[:, t, :, None], exp(decay[:, t]) * state)
        y[:, t] = in_lanes(np.broadcast_to(c[:, t, None], state.shape), state)
    return y, state

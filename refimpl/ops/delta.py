"""Linear attention with decay and the delta rule.

`delta_attend` computes the four update rules of ONNX's LinearAttention. The gated delta rule is computed
token by token, and also in chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .arrays import repeated
from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float


@op
def delta_attend(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T G K"],
    v: Float[Array, "B T G V"],
    state: Float[Array, "B G K V"],
    decay: Float[Array, "B T G K"] | None = None,
    beta: Float[Array, "B T G"] | None = None,
    *,
    scale: float | None = None,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B G K V"]]:
    """Compute linear attention with a state S that maps keys to values. Each token decays S, updates it
    and reads from it. Returns the outputs and the last S.

    S ← exp(decay_t) ∘ S, S ← S + k_t u_tᵀ, out_t = scale · q_t S. Without `beta`, u_t is v_t. With `beta`,
    u_t is β_t (v_t − Sᵀ k_t), the error of S for k_t. These are the four rules of ONNX's LinearAttention
    (opset 27): without decay and beta "linear", with decay "gated" (Yang et al. 2024, GLA), with beta
    "delta" (Schlag et al. 2021), with both "gated_delta" (Yang et al. 2025). Conventions: decay ≤ 0 is a
    logarithm with a value for each element of a key; one value per head is repeated. If there is a β, it
    must be between 0 and 2, and keys must have length 1. This isn't checked. As in ONNX, nothing is
    divided by a sum of weights, and a scale of None means 1/√K.
    """
    b, length, h, size = q.shape
    g = k.shape[2]
    grouped = q.reshape(b, length, g, h // g, size) * (size**-0.5 if scale is None else scale)
    out = np.zeros((b, length, g, h // g, v.shape[3]), q.dtype)
    for t in range(length):
        if decay is not None:
            state = np.exp(decay[:, t])[..., None] * state
        new = v[:, t]
        if beta is not None:
            new = beta[:, t, :, None] * (new - (k[:, t, :, None, :] @ state)[:, :, 0])
        state = state + k[:, t, :, :, None] * new[:, :, None, :]
        out[:, t] = grouped[:, t] @ state
    return out.reshape(b, length, h, v.shape[3]), state


@op
def gated_delta_rule(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    state: Float[Array, "B H K V"],
    decay: Float[Array, "B T H"] | Float[Array, "B T H K"],
    beta: Float[Array, "B T H"],
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Compute the gated delta rule: `delta_attend` with a β and a decay for each head (Yang et al. 2025,
    Gated Delta Networks, eq. 10), or with a β for each head and a decay for each channel of a key (Kimi
    Team 2025, arXiv 2510.26692, eq. 1).

    S_t = (I − β_t k_t k_tᵀ) Diag(α_t) S_{t−1} + β_t k_t v_tᵀ with α_t = exp(decay_t). A token first lets S
    decay: all of S by one factor, or each row of S by its own factor. Then the token removes the value
    stored under its key k_t, and writes v_t there. Conventions: as in `delta_attend`. In the first paper,
    S is transposed.
    """
    each = decay if decay.ndim == 4 else repeated(decay[..., None], k.shape[-1], 3)
    return delta_attend(q, k, v, state, each, beta)


@op
def gated_delta_chunked(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    state: Float[Array, "B H K V"],
    decay: Float[Array, "B T H"] | Float[Array, "B T H K"],
    beta: Float[Array, "B T H"],
    *,
    chunk: int,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Compute the gated delta rule chunk by chunk. Within a chunk, it uses matrix products. From one chunk
    to the next, it passes S.

    d_ts is the sum of the decays after token s up to token t, and d_t is the sum from the chunk's start.
    What a token writes depends on what the earlier tokens of the chunk wrote. This is a linear system with
    a lower triangular matrix:

        u_t + Σ_{s<t} β_t exp(d_ts) (k_t·k_s) u_s = β_t (v_t − exp(d_t) Sᵀ k_t)        one linear system
        out_t = (exp(d_t) q_t S + Σ_{s≤t} exp(d_ts) (q_t·k_s) u_s) / √K
        S ← exp(d_T) S + Σ_s exp(d_Ts) k_s u_sᵀ

    (Yang et al. 2024, Parallelizing Linear Transformers with the Delta Rule, §3; with decays Yang et al.
    2025, §3.3.) If each channel c of a key has a decay, k_t·k_s exp(d_ts) is Σ_c k_tc k_sc exp(d_tsc),
    which is no longer a matrix product (arXiv 2510.26692, §3.1). Conventions: as in `gated_delta_rule`.
    d_ts is summed directly. A difference of two sums would lose the small decays beside large ones.
    """
    b, length, h, size = q.shape
    out = np.zeros((b, h, length, v.shape[3]), q.dtype)
    q, k, v = (a.transpose(0, 2, 1, 3) for a in (q * size**-0.5, k, v))
    decay, beta = _by_channel(decay).transpose(0, 2, 1, 3), beta.transpose(0, 2, 1)[..., None]
    for start in range(0, length, chunk):
        at = slice(start, start + chunk)
        keys, queries, rates = k[:, :, at], q[:, :, at], beta[:, :, at]
        count = keys.shape[2]
        lower, before = np.tri(count, dtype=bool), np.tri(count, k=-1, dtype=bool)
        # Row t holds its own decay in the columns s < t: summed from the top, d_ts.
        sums = np.cumsum(np.where(before[:, :, None], decay[:, :, at, None], 0), axis=2)
        between = np.where(lower[:, :, None], np.exp(sums), 0)
        since = np.exp(np.cumsum(decay[:, :, at], axis=2))
        reads = rates * _decayed_products(keys, keys, between)
        system = np.where(np.eye(count, dtype=bool), 1, reads).astype(q.dtype)
        new = np.linalg.solve(system, rates * (v[:, :, at] - (since * keys) @ state))
        out[:, :, at] = (since * queries) @ state + _decayed_products(queries, keys, between) @ new
        kept = keys * between[:, :, -1]
        state = since[:, :, -1, :, None] * state + kept.swapaxes(2, 3) @ new
    return out.transpose(0, 2, 1, 3), state


def _by_channel(decay: Array) -> Array:
    """Return decays as [B, T, H, K], or as [B, T, H, 1] if each head has one decay."""
    return decay[..., None] if decay.ndim == 3 else decay


def _decayed_products(a: Array, keys: Array, between: Array) -> Array:
    """Compute Σ_c a_tc k_sc between_tsc for each head, with `between` [B, H, T, T, K] or [B, H, T, T, 1]."""
    if between.shape[-1] == 1:
        return (a @ keys.swapaxes(2, 3)) * between[..., 0]
    return np.einsum("bhtk,bhsk,bhtsk->bhts", a, keys, between)

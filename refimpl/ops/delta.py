"""Linear attention with decay and the delta rule: the four rules of ONNX's LinearAttention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray as Array

__all__ = ["delta_attend"]


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
    """S maps keys to values; each token decays it, updates it and reads from it.

    S ← exp(decay_t) ∘ S, S ← S + k_t u_tᵀ, out_t = scale · q_t S, with u_t = v_t, or with `beta`
    u_t = β_t (v_t − Sᵀ k_t), the error of S for k_t. The four rules of ONNX's
    LinearAttention (opset 27): neither is "linear", decay "gated" (Yang et al. 2024, GLA), beta
    "delta" (Schlag et al. 2021), both "gated_delta" (Yang et al. 2025). Gives outputs and the last S.
    Conventions: decay ≤ 0 is a logarithm with a value for each element of a key; one value per head is
    repeated. β must be between 0 and 1, and keys must have length 1 where there is a β: this isn't checked.
    Nothing is divided by a sum of weights, and scale None is 1/√K, as in ONNX.
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

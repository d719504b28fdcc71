"""Linear attention with decay and the delta rule: the four rules of ONNX's LinearAttention."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..scan import scan

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor as Array

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
    """Scan over the tokens."""
    inputs = {"q": q.unflatten(2, (k.shape[2], -1)), "k": k, "v": v, "decay": decay, "beta": beta}
    there = {n: a.transpose(0, 1) for n, a in inputs.items() if a is not None}

    def step(state: Array, *slices: Array) -> list[Array]:
        at = dict(zip(there, slices, strict=True))
        if "decay" in at:
            state = torch.exp(at["decay"]).unsqueeze(-1) * state
        new, key = at["v"], at["k"]
        if "beta" in at:
            new = at["beta"].unsqueeze(-1) * (new - (key.unsqueeze(-2) @ state).squeeze(-2))
        state = state + key.unsqueeze(-1) * new.unsqueeze(-2)
        return [state, at["q"] @ state]

    state, out = scan(step, [state], list(there.values()))
    out = out * (q.shape[3] ** -0.5 if scale is None else scale)
    return out.transpose(0, 1).flatten(2, 3), state

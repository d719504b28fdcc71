"""Implement linear attention with decay and the delta rule in PyTorch, token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from ..scan import scan
from ..torch_bodies import torch_body


@torch_body
def delta_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    decay: Tensor | None = None,
    beta: Tensor | None = None,
    *,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute linear attention with a state that each token decays, updates and reads, as a Scan over the
    tokens in ONNX.
    """
    inputs = {"q": q.unflatten(2, (k.shape[2], -1)), "k": k, "v": v, "decay": decay, "beta": beta}
    there = {n: a.transpose(0, 1) for n, a in inputs.items() if a is not None}

    def step(state: Tensor, *slices: Tensor) -> list[Tensor]:
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

"""Implement the selective scan in PyTorch: every channel keeps a few numbers, and each number decays at a
rate of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..scan import scan
from ..torch_bodies import torch_body


@torch_body
def selective_scan(
    x: Tensor, step: Tensor, rates: Tensor, b: Tensor, c: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the selective scan over the tokens, as a Scan in ONNX. Returns the outputs and the last
    state.
    """

    def one(state: Tensor, step: Tensor, value: Tensor, b: Tensor, c: Tensor, rates: Tensor) -> list[Tensor]:
        state = torch.exp(step.unsqueeze(2) * rates) * state + value.unsqueeze(2) * b.unsqueeze(1)
        return [state, (state @ c.unsqueeze(2)).squeeze(2)]

    along = [a.transpose(0, 1) for a in (step, step * x, b, c)]
    state, y = scan(one, [state], along, [rates])
    return y.transpose(0, 1), state

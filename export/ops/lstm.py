"""Implement long short-term memory (LSTM) in PyTorch, a recurrence with gates."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ...refimpl.ops.lstm import LstmWeights
from ..scan import scan
from ..torch_bodies import torch_body


def _step(gates: Tensor, c: Tensor, peephole: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Compute one step of an LSTM: return the new output h and the new cell c. `gates` contains the sums to
    which the four gates' nonlinearities are applied.
    """
    i, f, g, o = gates.chunk(4, -1)
    seen = None if peephole is None else peephole.chunk(3)
    if seen is not None:
        i, f = i + seen[0] * c, f + seen[1] * c
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    if seen is not None:
        o = o + seen[2] * c
    return torch.sigmoid(o) * torch.tanh(c), c


@torch_body
def lstm(
    x: Tensor,
    weights: LstmWeights,
    h0: Tensor | None = None,
    c0: Tensor | None = None,
    lengths: Tensor | None = None,
    *,
    reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute an LSTM as a Scan over the tokens. One product projects the inputs of all tokens beforehand.

    A Python loop would fix the number of tokens in the graph, and the exporter would unroll torch's own
    LSTM.
    """
    batch, tokens = x.shape[:2]
    wh, bias, peephole = weights["wh"], weights.get("bias"), weights.get("peephole")
    gates = x @ weights["wx"]
    gates = (gates if bias is None else gates + bias).transpose(0, 1)
    real = torch.ones_like(gates[:, :, :1], dtype=torch.bool)
    if lengths is not None:
        real = real & (torch.arange(tokens, device=x.device)[:, None] < lengths).unsqueeze(2)
    # ONNX Runtime's Scan refuses an empty sequence: one step of padding comes last, and is cut off.
    gates, real = functional.pad(gates, (0, 0, 0, 0, 0, 1)), functional.pad(real, (0, 0, 0, 0, 0, 1))
    if reverse:
        gates, real = gates.flip(0), real.flip(0)
    h = x.new_zeros(batch, wh.shape[0]) if h0 is None else h0
    c = x.new_zeros(batch, wh.shape[0]) if c0 is None else c0

    def step(h: Tensor, c: Tensor, gates: Tensor, real: Tensor, *recurrent: Tensor) -> list[Tensor]:
        new_h, new_c = _step(gates + h @ recurrent[0], c, *recurrent[1:])
        return [torch.where(real, new_h, h), torch.where(real, new_c, c), torch.where(real, new_h, 0)]

    recurrent = (wh,) if peephole is None else (wh, peephole)
    h, c, y = scan(step, [h, c], [gates, real], recurrent)
    return (y.flip(0) if reverse else y)[:tokens].transpose(0, 1), h, c

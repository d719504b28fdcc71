"""Implement RWKV's average in PyTorch: each channel averages the values of all tokens so far, and older
tokens count less.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..scan import scan
from ..torch_bodies import torch_body


@torch_body
def wkv(
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    bonus: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    exponent: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute RWKV's weighted average at each token, as a Scan over the tokens in ONNX. Returns the averages
    and the last state.
    """

    def one(
        numerator: Tensor,
        denominator: Tensor,
        exponent: Tensor,
        k: Tensor,
        v: Tensor,
        decay: Tensor,
        bonus: Tensor,
    ) -> list[Tensor]:
        most = torch.maximum(exponent, k + bonus)
        old, new = torch.exp(exponent - most), torch.exp(k + bonus - most)
        y = (old * numerator + new * v) / (old * denominator + new)
        most = torch.maximum(exponent + decay, k)
        old, new = torch.exp(exponent + decay - most), torch.exp(k - most)
        return [old * numerator + new * v, old * denominator + new, most, y]

    along = [a.transpose(0, 1) for a in (k, v, decay)]
    n, d, m, y = scan(one, [numerator, denominator, exponent], along, [bonus])
    return y.transpose(0, 1), n, d, m

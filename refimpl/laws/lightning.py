"""Laws of lightning attention over a whole text. The laws of the states of lightning attention are in
`laws.short_conv`.
"""

from __future__ import annotations

import numpy as np

from ..ops.activation import activation, sigmoid
from ..ops.linear import linear
from ..ops.norm import rms_norm
from . import Draw, Subject, law


@law("lightning")
def it_is_attention_that_fades(lightning: Subject, draw: Draw) -> None:
    """For a text's first tokens, lightning attention equals the full matrix of products of queries and
    keys, times λ^(t − s)."""
    call = draw(lightning.calls(lengths=None))
    call = call.but(past=np.zeros_like(call["past"]))
    a, x = call["settings"], call["x"].astype(np.float64)
    b, t, _ = x.shape
    mixed = activation(linear(x, call["wi"]), kind=a.activation)
    q, k, v = mixed.reshape(b, t, 3, a.heads, a.head_size).transpose(2, 0, 1, 3, 4)
    since = np.arange(t)[:, None] - np.arange(t)
    fading = np.where(since < 0, 0, np.exp(-np.array(a.slope_rate)[:, None, None] * np.maximum(since, 0)))
    y = np.einsum("bthk,bshk,hts,bshv->bthv", q, k, fading, v).reshape(b, t, -1)
    y = rms_norm(y, call["norm"].astype(np.float64), eps=a.eps) * sigmoid(linear(x, call["wz"]))
    lightning.near(lightning(call)[0], linear(y, call["wo"]), call)

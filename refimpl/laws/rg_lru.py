"""Laws of the recurrent unit over a whole text. The laws of the unit's states are in `laws.short_conv` and
`laws.gated_delta`.
"""

from __future__ import annotations

import numpy as np

from ..ops.activation import activation, sigmoid
from ..ops.linear import linear
from ..ops.short_conv import causal_conv
from . import Draw, Subject, law


@law("rg_lru")
def it_is_a_sum_that_fades(rg_lru: Subject, draw: Draw) -> None:
    """For a text's first tokens, the unit's state equals a matrix of the products of decays between
    tokens, times what each token adds. For the first token, the factor √(1 − a²) is replaced by 1."""
    call = draw(rg_lru.calls(lengths=None, wi=True, wz=True, wo=True))
    call = call.but(past=np.zeros_like(call["past"]))
    x = call["x"].astype(np.float64)
    u = causal_conv(linear(x, call["wi"], call["bi"]), call["conv"], None, call["conv_bias"])
    heads = u.reshape(*u.shape[:2], *call["b_input"].shape)
    i, r = (
        sigmoid(np.einsum("bthk,hkl->bthl", heads, call[f"w_{name}"]) + call[f"b_{name}"]).reshape(u.shape)
        for name in ("input", "decay")
    )
    loss = 8 * r * np.log1p(np.exp(call["forget"].astype(np.float64)))
    root = np.sqrt(-np.expm1(-2 * loss))
    root[:, 0] = 1
    y = np.zeros_like(u)
    for t in range(u.shape[1]):
        for s in range(t + 1):
            y[:, t] += np.exp(-loss[:, s + 1 : t + 1].sum(1)) * root[:, s] * i[:, s] * u[:, s]
    y = y * activation(linear(x, call["wz"], call["bz"]), kind=call["settings"].activation)
    rg_lru.near(rg_lru(call)[0], linear(y, call["wo"], call["bo"]), call)


@law("rg_lru")
def a_gate_that_never_fades_keeps_the_state(rg_lru: Subject, draw: Draw) -> None:
    """If the gate r is zero, nothing earlier decays, and tokens after a text's first one add nothing."""
    call = draw(rg_lru.calls(lengths=None))
    call = call.but(w_decay=np.zeros_like(call["w_decay"]), b_decay=np.full_like(call["b_decay"], -200.0))
    call = call.but(past=np.ones_like(call["past"]))
    _, cache = rg_lru(call)
    rg_lru.near(cache[1], call["cache"].state, call)

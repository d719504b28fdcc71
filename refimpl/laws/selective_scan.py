"""Laws of the selective scan: its forms give the same results. The law of splitting a text in two is in
`laws.delta`."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.delta import delta_attend
from ..ops.selective_scan import selective_scan as recurrent
from . import Draw, Subject, law


@law("selective_scan_chunked")
def chunks_are_the_recurrence(selective_scan_chunked: Subject, draw: Draw) -> None:
    """The chunked scan gives the same results for every chunk length. A length of 1 is the recurrence, and
    the whole text is the parallel form.
    """
    call = draw(selective_scan_chunked.calls())
    call = call.but(chunk=draw(st.integers(1, 9)))
    expected = recurrent(*(a.astype(np.float64) for a in call.arrays.values()))
    selective_scan_chunked.near(selective_scan_chunked(call), expected, call)


@law("selective_scan")
def it_is_linear_attention_with_decay(selective_scan: Subject, draw: Draw) -> None:
    """The selective scan equals ONNX's rule "gated" without a scale, where each channel is a head with a
    value of one number, and all heads share one key.
    """
    call = draw(selective_scan.calls())
    x, step, rates, b, c, state = (a.astype(np.float64) for a in call.arrays.values())
    decay = step[..., None] * rates
    keys, queries = (np.broadcast_to(a[:, :, None], decay.shape) for a in (b, c))
    y, last = delta_attend(queries, keys, (step * x)[..., None], state[..., None], decay, scale=1.0)
    selective_scan.near(selective_scan(call), (y[..., 0], last[..., 0]), call)


@law("selective_scan", "selective_scan_chunked")
def alike_for_all_tokens_it_is_a_convolution(scan: Subject, draw: Draw) -> None:
    """If Δ, B and C are the same for each token, the scan from an empty state is a convolution: y_t = Σ_j
    (C exp(j Δ A) Δ B) x_{t−j} (Gu & Dao 2023, eq. 3)."""
    call = draw(scan.calls())
    alike = {n: np.broadcast_to(call[n][:, :1], call[n].shape).copy() for n in ("step", "b", "c")}
    call = call.but(**alike, state=np.zeros_like(call["state"]))
    x, step, rates, b, c = (call[n].astype(np.float64) for n in ("x", "step", "rates", "b", "c"))
    tokens, y = x.shape[1], np.zeros(x.shape)
    for j in range(tokens):
        kernel = np.einsum(
            "bk,bfk,bf,bk->bf", c[:, 0], np.exp(j * step[:, 0, :, None] * rates), step[:, 0], b[:, 0]
        )
        y[:, j:] += kernel[:, None] * x[:, : tokens - j]
    scan.near(scan(call)[0], y, call)


@law("selective_scan", "selective_scan_chunked")
def a_step_of_no_length_keeps_the_state(scan: Subject, draw: Draw) -> None:
    """With a step Δ = 0, nothing decays and nothing is written. So y reads the earlier state."""
    call = draw(scan.calls())
    call = call.but(step=np.zeros_like(call["step"]))
    state, c = call["state"].astype(np.float64), call["c"].astype(np.float64)
    scan.near(scan(call), (np.einsum("bfk,btk->btf", state, c), state), call)


@law("selective_scan", "selective_scan_chunked")
def a_fast_rate_leaves_the_token_alone(scan: Subject, draw: Draw) -> None:
    """If everything earlier has decayed, a token reads only what it wrote itself, Δ_t (c_t·b_t) x_t."""
    call = draw(scan.calls())
    call = call.but(step=call["step"] + 1, rates=np.full_like(call["rates"], -1e4))
    x, step, b, c = (call[n].astype(np.float64) for n in ("x", "step", "b", "c"))
    written = step * x
    own = written * (b * c).sum(-1, keepdims=True)
    scan.near(scan(call), (own, written[:, -1, :, None] * b[:, -1, None]), call)

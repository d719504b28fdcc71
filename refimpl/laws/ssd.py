"""Laws of state-space duality: the three forms give the same results. The law of splitting a text is in
`laws.delta`."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.delta import delta_attend
from ..ops.ssd import ssd_recurrent as recurrent
from . import Draw, Subject, law


@law("ssd_quadratic")
def the_matrix_is_the_recurrence(ssd_quadratic: Subject, draw: Draw) -> None:
    """`ssd_quadratic` gives the same outputs and last state as `ssd_recurrent`, which takes one token
    after the other.
    """
    call = draw(ssd_quadratic.calls())
    expected = recurrent(*(a.astype(np.float64) for a in call.arrays.values()))
    ssd_quadratic.near(ssd_quadratic(call), expected, call)


@law("ssd_chunked")
def chunks_are_the_recurrence(ssd_chunked: Subject, draw: Draw) -> None:
    """`ssd_chunked` gives the same results for every chunk length. A length of 1 is the recurrence, and
    the whole text is the matrix form.
    """
    call = draw(ssd_chunked.calls())
    call = call.but(chunk=draw(st.integers(1, 9)))
    expected = recurrent(*(a.astype(np.float64) for a in call.arrays.values()))
    ssd_chunked.near(ssd_chunked(call), expected, call)


@law("ssd_recurrent")
def it_is_linear_attention_with_decay(ssd_recurrent: Subject, draw: Draw) -> None:
    """`ssd_recurrent` equals ONNX's rule "gated" without a scale, if each head has its own keys and
    queries.
    """
    call = draw(ssd_recurrent.calls(R=1))
    x, decay, b, c, state = (call[n].astype(np.float64) for n in ("x", "decay", "b", "c", "state"))
    expected = delta_attend(c, b, x, state, np.broadcast_to(decay[..., None], b.shape), scale=1.0)
    ssd_recurrent.near(ssd_recurrent(call), expected, call)


@law("ssd_recurrent", "ssd_quadratic", "ssd_chunked")
def without_decay_the_mask_is_causal(ssd: Subject, draw: Draw) -> None:
    """Without decay and from an empty state, y_t = Σ_{s≤t} (c_t·b_s) x_s. This is causal attention without
    its softmax.
    """
    call = draw(ssd.calls())
    call = call.but(decay=np.zeros_like(call["decay"]), state=np.zeros_like(call["state"]))
    x, b, c = (call[n].astype(np.float64) for n in ("x", "b", "c"))
    groups, tokens = b.shape[2], x.shape[1]
    scores = np.einsum("btgk,bsgk->bgts", c, b) * np.tri(tokens)
    values = x.reshape(*x.shape[:2], groups, -1, x.shape[3])
    y = np.einsum("bgts,bsgrv->btgrv", scores, values).reshape(x.shape)
    state = np.einsum("bsgk,bsgrv->bgrkv", b, values).reshape(call["state"].shape)
    ssd.near(ssd(call), (y, state), call)


@law("ssd_recurrent", "ssd_quadratic", "ssd_chunked")
def a_strong_decay_leaves_the_token_alone(ssd: Subject, draw: Draw) -> None:
    """After a decay of −∞, a token reads only what it wrote itself, (c_t·b_t) x_t."""
    call = draw(ssd.calls())
    call = call.but(decay=np.full_like(call["decay"], -1e4))
    x, b, c = (call[n].astype(np.float64) for n in ("x", "b", "c"))
    share = x.shape[2] // b.shape[2]
    own = np.repeat((b * c).sum(-1, keepdims=True), share, axis=2) * x
    last = np.repeat(b[:, -1], share, axis=1)[..., None] * x[:, -1, :, None]
    ssd.near(ssd(call), (own, last), call)

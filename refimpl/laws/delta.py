"""Laws of linear attention with decay and correction."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.delta import gated_delta_rule as recurrent
from . import Draw, Subject, law
from .kit.one_pass import in_two


@law(
    "delta_attend",
    "gated_delta_rule",
    "gated_delta_chunked",
    "ssd_recurrent",
    "ssd_chunked",
    "selective_scan",
    "selective_scan_chunked",
)
def any_split_of_the_tokens_is_one_pass(delta: Subject, draw: Draw) -> None:
    """Two calls over the parts of a text give the same outputs and state as one call, because a later
    token needs only the state of earlier tokens.
    """
    in_two(delta, draw, draw(delta.calls()), lambda cut, state: {"state": state})


@law("delta_attend")
def without_decay_and_correction_it_sums(delta_attend: Subject, draw: Draw) -> None:
    """Without decay and β, the state is Σ k vᵀ, and the scaled query reads it. This is linear attention
    without its normalization.
    """
    call = draw(delta_attend.calls(decay=None, beta=None))
    q, k, v, state = (call[n].astype(np.float64) for n in ("q", "k", "v", "state"))
    share, scale = q.shape[2] // k.shape[2], call["scale"] or q.shape[3] ** -0.5
    sums = np.cumsum(k[..., None] * v[..., None, :], axis=1) + state[:, None]
    expected = np.einsum("bthk,bthkv->bthv", q * scale, np.repeat(sums, share, axis=2))
    delta_attend.near(delta_attend(call), (expected, sums[:, -1]), call)


@law("delta_attend")
def a_decay_of_zero_changes_nothing(delta_attend: Subject, draw: Draw) -> None:
    """A decay of zero gives the same result as no decay, because the factor is exp(0) = 1."""
    call = draw(delta_attend.calls(decay=True))
    call = call.but(decay=np.zeros_like(call["decay"]))
    delta_attend.near(delta_attend(call), delta_attend(call.but(decay=None)), call)


@law("delta_attend")
def beta_zero_writes_nothing(delta_attend: Subject, draw: Draw) -> None:
    """With β = 0 and without decay, the state stays the same."""
    call = draw(delta_attend.calls(beta=True, decay=None))
    call = call.but(beta=np.zeros_like(call["beta"]))
    delta_attend.near(delta_attend(call)[1], call["state"], call)


@law("delta_attend")
def with_beta_one_a_written_value_is_read_back(delta_attend: Subject, draw: Draw) -> None:
    """If keys have length 1 and β is 1, a query k reads the value v right after (k, v) was written,
    whatever the state was before.
    """
    call = draw(delta_attend.calls(beta=True, R=1))
    k = call["k"].copy()
    k[...] = np.eye(k.shape[3], dtype=k.dtype)[0]
    call = call.but(k=k, q=k.copy(), beta=np.ones_like(call["beta"]), scale=1.0)
    delta_attend.near(delta_attend(call)[0], call["v"], call)


@law("gated_delta_chunked")
def chunks_are_the_recurrence(gated_delta_chunked: Subject, draw: Draw) -> None:
    """The gated delta rule in chunks gives the same outputs and last state as token by token, for every
    chunk length.
    """
    call = draw(gated_delta_chunked.calls())
    call = call.but(chunk=draw(st.integers(1, 9)))
    expected = recurrent(*(a.astype(np.float64) for a in call.arrays.values()))
    gated_delta_chunked.near(gated_delta_chunked(call), expected, call)


@law("gated_delta_rule", "gated_delta_chunked")
def equal_decays_of_channels_are_one_of_the_head(delta: Subject, draw: Draw) -> None:
    """If all channels of a key have the same decay, the result is the same as with one decay for the whole
    head.
    """
    call = draw(delta.calls())
    decay = call["decay"] if call["decay"].ndim == 3 else call["decay"][..., 0]
    channels = np.broadcast_to(decay[..., None], call["k"].shape)
    apart = call.but(decay=np.ascontiguousarray(channels))
    delta.near(delta(apart), delta(call.but(decay=decay)), apart, call)


@law("gated_delta_rule", "gated_delta_chunked")
def what_is_not_written_decays_row_by_row(delta: Subject, draw: Draw) -> None:
    """With β = 0, each row of the state is multiplied only by the decays of its own channel."""
    call = draw(delta.calls())
    call = call.but(beta=np.zeros_like(call["beta"]))
    decay = call["decay"].astype(np.float64)
    rows = np.exp((decay if decay.ndim == 4 else decay[..., None]).sum(1))
    delta.near(delta(call)[1], rows[..., None] * call["state"], call)


@law("gated_delta_rule")
def equal_keys_are_overwritten(gated_delta_rule: Subject, draw: Draw) -> None:
    """If all tokens have the same key, with β = 1 and no decay, only the last value is read back."""
    call = draw(gated_delta_rule.calls())
    k = np.zeros_like(call["k"])
    k[..., 0] = 1
    zeros, ones = np.zeros_like(call["decay"]), np.ones_like(call["beta"])
    call = call.but(k=k, q=k.copy(), decay=zeros, beta=ones)
    out, state = gated_delta_rule(call)
    size = np.sqrt(k.shape[3])
    gated_delta_rule.near((out * size, state[:, :, 0]), (call["v"], call["v"][:, -1]), call)


@law("gated_delta_rule")
def a_strong_decay_forgets_what_was_before(gated_delta_rule: Subject, draw: Draw) -> None:
    """After a decay of −∞, the state contains only what the current token wrote, β k vᵀ."""
    call = draw(gated_delta_rule.calls(T=1))
    call = call.but(decay=np.full_like(call["decay"], -200.0))
    _, state = gated_delta_rule(call)
    k, v, beta = (call[n].astype(np.float64)[:, 0] for n in ("k", "v", "beta"))
    gated_delta_rule.near(state, beta[..., None, None] * k[..., None] * v[:, :, None], call)

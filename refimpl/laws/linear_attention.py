"""Laws of linear attention: its forms compute the same function, and its state works as a cache."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.linear_attention import linear_parallel as parallel
from . import Call, Draw, Subject, law
from .kit.one_pass import in_two


def _quotient(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return Σ_s (q·k_s) v_s / Σ_s q·k_s over the keys of a mask [B, T, S], computed by the whole matrix
    in float64.
    """
    share = q.shape[2] // k.shape[2]
    k, v = (np.repeat(a.astype(np.float64), share, axis=2) for a in (k, v))
    weights = np.einsum("bthq,bshq->bths", q.astype(np.float64), k) * mask[:, :, None]
    total = weights.sum(-1, keepdims=True)
    return np.einsum("bths,bshv->bthv", weights / np.where(total == 0, 1, total), v)


def _fresh(call: Call) -> Call:
    """Return the call at the start of a text, with an empty state."""
    return call.but(state=np.zeros_like(call["state"]), norm=np.zeros_like(call["norm"]))


@law("elu_features", "relu_features", "random_features")
def features_are_never_negative(features: Subject, draw: Draw) -> None:
    """Features are at least 0. So the sum of a query's weights is 0 only if all its weights are 0."""
    assert not (features(draw(features.calls())) < 0).any(), "a feature is negative"


@law("random_features")
def features_are_exponentials_less_half_the_square(random_features: Subject, draw: Draw) -> None:
    """Random features are exp(w·x − |x|² / 2) / √Q for each row w. So the mean of φ(x)·φ(y) over normal
    rows is exp(x·y).
    """
    call = draw(random_features.calls())
    x, w = (call[n].astype(np.float64) for n in ("x", "projection"))
    expected = np.exp(x @ w.T - (x**2).sum(-1, keepdims=True) / 2) / np.sqrt(len(w))
    random_features.near(random_features(call), expected, call)


@law("linear_attend")
def linear_attention_is_attention_with_a_kernel(linear_attend: Subject, draw: Draw) -> None:
    """Linear attention equals the whole matrix of weights q·k, masked and normalized, times the values."""
    call = draw(linear_attend.calls())
    q, k = call["q"], call["k"]
    seen = np.ones((q.shape[0], k.shape[1]), bool) if call["keys"] is None else call["keys"]
    mask = np.broadcast_to(seen[:, None], (q.shape[0], q.shape[1], k.shape[1]))
    linear_attend.near(linear_attend(call), _quotient(q, k, call["v"], mask), call)


@law("linear_parallel")
def the_causal_form_sees_the_lower_triangle(linear_parallel: Subject, draw: Draw) -> None:
    """Causal linear attention equals the whole matrix of weights q·k with later keys masked."""
    call = draw(linear_parallel.calls())
    q, k, v = (call[n] for n in "qkv")
    (b, t), seen = q.shape[:2], np.tri(q.shape[1], dtype=bool)
    expected = _quotient(q, k, v, np.broadcast_to(seen, (b, t, t)))
    linear_parallel.near(linear_parallel(call), expected, call)


@law("linear_recurrent", "linear_chunked")
def from_an_empty_state_it_equals_the_parallel_form(linear: Subject, draw: Draw) -> None:
    """From a state of zeros, the recurrent and the chunked form give the output of the parallel form for a
    whole text.
    """
    call = _fresh(draw(linear.calls()))
    linear.near(linear(call)[0], parallel(*(call[n].astype(np.float64) for n in "qkv")), call)


@law("linear_recurrent", "linear_chunked")
def any_split_of_the_tokens_is_one_pass(linear: Subject, draw: Draw) -> None:
    """Two calls over the parts of a text equal one call, because a later token needs only the state of
    earlier tokens.
    """
    in_two(linear, draw, draw(linear.calls()), lambda cut, state, norm: {"state": state, "norm": norm})


@law("linear_chunked")
def the_chunk_length_does_not_matter(linear_chunked: Subject, draw: Draw) -> None:
    """The chunked form gives the same outputs, state and norm for every chunk length."""
    call = draw(linear_chunked.calls())
    other = call.but(chunk=draw(st.integers(1, 9)))
    linear_chunked.near(linear_chunked(other), linear_chunked(call), call, other)

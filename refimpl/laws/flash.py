"""Laws of flash attention: results equal those of plain attention and don't depend on the tiles."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.attention import attend
from ..ops.flash import flash_attend as flash
from . import Call, Draw, Subject, law
from .kit.strategies import splits

TILES = st.integers(1, 15)


def _allowed(call: Call) -> np.ndarray:
    """Return one mask that combines the call's mask and the causal rule."""
    (b, t), s = call["q"].shape[:2], call["k"].shape[1]
    seen = np.ones((b, t, s), bool) if call["mask"] is None else call["mask"]
    return seen & (np.arange(s) <= np.arange(s - t, s)[:, None]) if call["causal"] else seen


def _saved(call: Call) -> Call:
    """Return the call with the forward pass's outputs computed in float64. The outputs in the drawn call
    were computed in float32.
    """
    q, k, v = (call[n].astype(np.float64) for n in "qkv")
    settings = {n: call[n] for n in ("tile", "causal", "scale", "softcap")}
    out, lse = flash(q, k, v, call["mask"], **settings)
    return call.but(out=out, lse=lse)


@law("flash_attend")
def flash_is_plain_attention(flash_attend: Subject, draw: Draw) -> None:
    """Flash attention returns the same output as `attend`, causal or not, for any tile size."""
    call = draw(flash_attend.calls()).but(tile=draw(TILES))
    q, k, v = (call[n].astype(np.float64) for n in "qkv")
    expected = attend(q, k, v, _allowed(call), scale=call["scale"], softcap=call["softcap"])
    flash_attend.near(flash_attend(call)[0], expected, call)


@law("flash_attend")
def the_log_sum_exp_is_that_of_the_scores(flash_attend: Subject, draw: Draw) -> None:
    """Flash attention returns log Σ exp(score) over the keys that a query sees, and −∞ if the query sees
    no key.
    """
    call = draw(flash_attend.calls(softcap=None)).but(tile=draw(TILES))
    q, k = (call[n].astype(np.float64) for n in "qk")
    scale = q.shape[3] ** -0.5 if call["scale"] is None else call["scale"]
    scores = np.einsum("bthk,bshk->bhts", q, np.repeat(k, q.shape[2] // k.shape[2], axis=2)) * scale
    scores = np.where(_allowed(call)[:, None], scores, -np.inf)
    expected = np.logaddexp.reduce(scores, axis=-1)
    flash_attend.near(flash_attend(call)[1], expected, call)


@law("flash_attend")
def scores_that_grow_from_tile_to_tile_do_not_overflow(flash_attend: Subject, draw: Draw) -> None:
    """Flash attention doesn't overflow if scores grow from tile to tile. It takes exp only of differences
    from the highest score so far.
    """
    call = draw(flash_attend.calls(mask=None, softcap=None, causal=False))
    steep = call["k"] + 1000 * np.arange(call["k"].shape[1], dtype=call["k"].dtype)[:, None, None]
    out, lse = flash_attend(call.but(k=steep, q=np.ones_like(call["q"])))
    assert np.isfinite(out).all(), "large scores give outputs that aren't finite"
    assert np.isfinite(lse).all(), "large scores give a log-sum-exp that isn't finite"


@law("flash_backward")
def the_tile_size_does_not_matter_to_gradients(flash_backward: Subject, draw: Draw) -> None:
    """The gradients of flash attention are the same for every tile size."""
    call = draw(flash_backward.calls())
    other = call.but(tile=draw(TILES))
    flash_backward.near(flash_backward(other), flash_backward(call), call, other)


@law("flash_backward")
def gradients_of_all_keys_sum_to_zero(flash_backward: Subject, draw: Draw) -> None:
    """Without a soft cap, the gradients of all keys sum to zero, because attention depends only on
    differences of scores.
    """
    call = _saved(draw(flash_backward.calls(softcap=None)))
    _, dk, _ = flash_backward(call)
    total = dk.astype(np.float64).sum(1)
    flash_backward.near(total, np.zeros_like(total), call, times=dk.shape[1])


@law("flash_backward")
def the_output_is_linear_in_the_values(flash_backward: Subject, draw: Draw) -> None:
    """For each row of the batch, Σ v · dv equals Σ out · grad, because the output is linear in v."""
    call = _saved(draw(flash_backward.calls()))
    v, out, grad = (call[n].astype(np.float64) for n in ("v", "out", "grad"))
    _, _, dv = flash_backward(call)
    got, expected = (v * dv).sum((1, 2, 3)), (out * grad).sum((1, 2, 3))
    slack = max(np.abs(v).sum(), np.abs(grad).sum(), 1.0)
    flash_backward.near(got, expected, call, times=float(slack))


@law("flash_backward")
def steep_scores_and_rows_that_see_nothing_have_finite_gradients(flash_backward: Subject, draw: Draw) -> None:
    """Gradients are finite even for steep scores, because exp is taken only of scores minus their row's
    log-sum-exp. A query that sees no key has a gradient of zero."""
    call = draw(flash_backward.calls(mask=None, softcap=None, causal=False))
    q, k = np.ones_like(call["q"]), call["k"]
    steep = k + 1000 * np.arange(k.shape[1], dtype=k.dtype)[:, None, None]
    seen = np.ones((len(k), q.shape[1], k.shape[1]), bool)
    seen[:, 0] = False
    grads = flash_backward(_saved(call.but(q=q, k=steep, mask=seen)))
    assert all(np.isfinite(g).all() for g in grads), "large scores give gradients that aren't finite"
    assert not np.any(grads[0][:, 0]), "the gradient of a query that sees no key isn't 0"


@law("merge")
def merging_two_sets_of_keys_gives_attention_over_both(merge: Subject, draw: Draw) -> None:
    """If attention over the first keys is merged with attention over the other keys, the result is
    attention over all keys.
    """
    call = draw(merge.calls())
    q, k = call["out"].astype(np.float64), call["other"].astype(np.float64)
    cut = draw(splits(k.shape[1]))
    parts = [a for side in (k[:, :cut], k[:, cut:]) for a in flash(q, side, side, tile=2)]
    merged = merge.call(*(a.astype(call["out"].dtype) for a in parts))
    merge.near(merge(merged), flash(q, k, k, tile=2), merged)


@law("merge")
def an_empty_set_of_keys_is_neutral(merge: Subject, draw: Draw) -> None:
    """If one log-sum-exp is −∞, merging returns the other result. If both are −∞, the output is 0."""
    call = draw(merge.calls())
    none = np.full_like(call["lse"], -np.inf)
    merge.near(merge(call.but(other_lse=none)), (call["out"], call["lse"]), call)
    merge.near(merge(call.but(lse=none)), (call["other"], call["other_lse"]), call)
    out, lse = merge(call.but(lse=none, other_lse=none))
    assert not out.any(), "the output of two empty sets of keys isn't 0"
    assert (lse == -np.inf).all(), "the log-sum-exp of two empty sets of keys isn't -inf"

"""Laws of alternating updates (AltUp)."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops.altup import modalities as coefficients_of
from . import Call, Draw, Subject, law
from .kit.strategies import permutations


@law("modalities")
def numbers_lie_between_minus_one_and_one(modalities: Subject, draw: Draw) -> None:
    """`modalities` returns tanh(rms_norm(x) / D · router), so its numbers lie between −1 and 1. The law
    computes this by einsum.
    """
    call = draw(modalities.calls())
    x, router, norm = (call[n].astype(np.float64) for n in ("x", "router", "norm"))
    normed = norm * x / np.sqrt(np.mean(x**2, -1, keepdims=True) + call["eps"]) / x.shape[-1]
    modalities.near(modalities(call), np.tanh(np.einsum("btd,dy->bty", normed, router)), call)


@law("altup_predict")
def each_prediction_is_a_sum_over_the_streams(altup_predict: Subject, draw: Draw) -> None:
    """`altup_predict` returns x_i + Σ_j p_ij x_j for each stream i. The law computes this stream by
    stream.
    """
    call = draw(altup_predict.calls())
    x, predict = (call[n].astype(np.float64) for n in ("x", "predict"))
    streams, active = call["settings"].streams, call["settings"].active
    m = _coefficients(call, x[:, :, active])
    expected = x.copy()
    for i in range(streams):
        for j in range(streams):
            p = m @ predict[:, streams * i + j]
            expected[:, :, i] += p[..., None] * x[:, :, j]
    altup_predict.near(altup_predict(call), expected, call)


@law("altup_correct")
def each_stream_moves_with_the_active_one(altup_correct: Subject, draw: Draw) -> None:
    """`altup_correct` returns x̂_i + (1 + c_i)(y − x̂_a) for each stream i. The law computes this stream
    by stream.
    """
    call = draw(altup_correct.calls())
    predictions, y, correct = (call[n].astype(np.float64) for n in ("predictions", "y", "correct"))
    innovation = y - predictions[:, :, call["settings"].active]
    c = _coefficients(call, y) @ correct
    moved = [predictions[:, :, i] + (1 + c[..., i, None]) * innovation for i in range(c.shape[-1])]
    altup_correct.near(altup_correct(call), np.stack(moved, 2), call)


@law("altup_correct")
def a_right_prediction_is_left_alone(altup_correct: Subject, draw: Draw) -> None:
    """If the layer's output equals the predicted active stream, `altup_correct` changes no stream."""
    call = draw(altup_correct.calls())
    right = call.but(y=call["predictions"][:, :, call["settings"].active])
    altup_correct.near(altup_correct(right), right["predictions"].astype(np.float64), right)


@law("same_magnitude")
def the_mean_square_is_the_others(same_magnitude: Subject, draw: Draw) -> None:
    """`same_magnitude` returns a vector with the mean square of `like` and the direction of x."""
    call = draw(same_magnitude.calls())
    x, like = (call[n].astype(np.float64) for n in ("x", "like"))
    size = np.mean(x**2, -1, keepdims=True)
    expected = x * np.sqrt(np.mean(like**2, -1, keepdims=True) / np.maximum(size, 1e-5))
    same_magnitude.near(same_magnitude(call), expected, call)


@law("enter_streams")
def the_first_stream_is_the_embedding(enter_streams: Subject, draw: Draw) -> None:
    """The first stream is the embedding. If the maps of the other streams are permuted, these streams are
    permuted in the same way.
    """
    call = draw(enter_streams.calls())
    y = enter_streams(call)
    enter_streams.near(y[:, :, 0], call["x"].astype(np.float64), call)
    order = draw(permutations(len(call["streams"])))
    other = call.but(streams=[call["streams"][i] for i in order])
    enter_streams.near(enter_streams(other), y[:, :, [0, *(1 + order)]], call, other)


@law("leave_streams")
def the_mean_is_over_the_streams(leave_streams: Subject, draw: Draw) -> None:
    """`leave_streams` returns the same result if all streams except the first are permuted together with
    their maps. A single stream is returned unchanged.
    """
    call = draw(leave_streams.calls())
    y = leave_streams(call)
    order = draw(permutations(len(call["streams"])))
    x = call["x"][:, :, [0, *(1 + order)]]
    other = call.but(x=x, streams=[call["streams"][i] for i in order])
    leave_streams.near(leave_streams(other), y, call, other)
    alone = call.but(x=call["x"][:, :, :1], streams=[])
    leave_streams.near(leave_streams(alone), call["x"][:, :, 0].astype(np.float64), alone)


def _coefficients(call: Call, x: np.ndarray) -> np.ndarray:
    """Return, in float64, the numbers from which the coefficients of x are made."""
    weights: Any = {n: call[n].astype(np.float64) for n in ("router", "norm", "predict", "correct")}
    return coefficients_of(x, weights, eps=call["settings"].norm.eps)

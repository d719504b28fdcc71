"""Laws of the adaptive softmax: all its functions describe the same distribution over words."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops.adaptive_softmax import adaptive_log_probs as full
from . import Draw, Subject, law
from .kit.budget import cast


@law("log_softmax", "adaptive_log_probs")
def probabilities_sum_to_one(log_probs: Subject, draw: Draw) -> None:
    """The log-probabilities of all words form a distribution, whatever the clusters: their exponentials
    sum to 1.
    """
    call = draw(log_probs.calls())
    got = log_probs(call)
    assert (got <= 0).all(), "a probability is above 1"
    ones = np.ones(got.shape[:-1])
    log_probs.near(np.exp(got.astype(np.float64)).sum(-1), ones, call, times=max(got.shape[-1], 1))


@law("log_softmax")
def a_shift_of_all_logits_changes_nothing(log_softmax: Subject, draw: Draw) -> None:
    """Adding a number to all logits, however large, doesn't change the log-softmax."""
    call = draw(log_softmax.calls())
    other = call.but(logits=call["logits"] + 1000)
    log_softmax.near(log_softmax(other), log_softmax(call), other, call)


@law("adaptive_log_probs")
def without_clusters_it_is_the_softmax(adaptive_log_probs: Subject, draw: Draw) -> None:
    """If there are no clusters, the adaptive softmax is the softmax of the head's logits."""
    call = draw(adaptive_log_probs.calls(head=True)).but(tails=[])
    x, head = call["x"].astype(np.float64), call["head"].astype(np.float64)
    logits = x @ head + (0 if call["bias"] is None else call["bias"])
    top = logits.max(-1, keepdims=True)
    expected = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    adaptive_log_probs.near(adaptive_log_probs(call), expected, call)


def _full(call: Any) -> np.ndarray:
    leaves = {n: cast(call[n], np.float64) for n in ("x", "head", "tails", "bias")}
    return full(**leaves)


@law("adaptive_target_log_probs")
def a_target_has_its_full_probability(adaptive_target_log_probs: Subject, draw: Draw) -> None:
    """The log-probability of a target word equals the target's entry in the full distribution."""
    call = draw(adaptive_target_log_probs.calls())
    expected = np.take_along_axis(_full(call), call["targets"][..., None], -1)[..., 0]
    adaptive_target_log_probs.near(adaptive_target_log_probs(call), expected, call)


@law("adaptive_predict")
def the_prediction_is_the_likeliest_word(adaptive_predict: Subject, draw: Draw) -> None:
    """No word is likelier than the predicted word by more than rounding."""
    call = draw(adaptive_predict.calls())
    every = _full(call)
    best = np.take_along_axis(every, adaptive_predict(call)[..., None], -1)[..., 0]
    gap = (every.max(-1) - best).max(initial=0)
    assert gap <= 1e-4 * max(1.0, np.abs(every).max(initial=0)), f"another word is likelier by {gap:.3g}"

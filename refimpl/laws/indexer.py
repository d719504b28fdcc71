"""Laws of the lightning indexer: how it computes scores, and which keys it lets a query see."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law
from .kit.strategies import permutations


@law("index_scores")
def each_head_adds_what_is_positive(index_scores: Subject, draw: Draw) -> None:
    """For each query and key, a head adds to the score only if its product is positive."""
    call = draw(index_scores.calls())
    q, k, weights = (call[n].astype(np.float64) for n in ("q", "k", "weights"))
    expected = np.zeros((*q.shape[:2], k.shape[1]))
    for row, t, s in np.ndindex(*expected.shape):
        for head in range(q.shape[2]):
            product = float(q[row, t, head] @ k[row, s])
            expected[row, t, s] += weights[row, t, head] * product if product > 0 else 0.0
    index_scores.near(index_scores(call), expected, call)


@law("index_scores")
def keys_are_a_set(index_scores: Subject, draw: Draw) -> None:
    """If keys are permuted, their scores are permuted in the same way."""
    call = draw(index_scores.calls())
    order = draw(permutations(call["k"].shape[1]))
    other = index_scores.take(call, "S", order)
    index_scores.near(index_scores(other), index_scores(call)[:, :, order], other, call)


@law("best_keys")
def no_key_left_out_is_better(best_keys: Subject, draw: Draw) -> None:
    """A query sees `topk` keys, or all allowed keys if there are fewer. An allowed key that isn't seen has
    a lower score than every seen key, or an equal score at a later position.

    Scores in this law are whole numbers, so that many are equal, as in a text in which no head adds
    anything.
    """
    call = draw(best_keys.calls())
    call = call.but(scores=np.maximum(np.round(call["scores"]), -1))
    scores, mask, top, got = call["scores"], call["mask"], call["topk"], best_keys(call)
    for row, t in np.ndindex(*scores.shape[:2]):
        seen, allowed = got[row, t], mask[row, t]
        assert not (seen & ~allowed).any(), f"the indexer chooses masked keys: {seen}"
        assert seen.sum() == min(top, allowed.sum()), (
            f"{seen.sum()} keys are chosen of {allowed.sum()} allowed keys, expected "
            f"{min(top, allowed.sum())}"
        )
        for s, other in np.argwhere(seen[:, None] & (allowed & ~seen)[None]):
            key = scores[row, t, s], -s
            assert key > (scores[row, t, other], -other), (
                f"key {s} is chosen, although key {other} has a better score"
            )


@law("best_keys")
def with_room_for_all_it_is_the_mask(best_keys: Subject, draw: Draw) -> None:
    """If the number of keys is at most `topk`, all allowed keys are seen."""
    call = draw(best_keys.calls())
    other = call.but(topk=call["scores"].shape[2])
    assert (best_keys(other) == call["mask"]).all()

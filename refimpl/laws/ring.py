"""Laws of ring attention: the placement of tokens changes which rank does the work, but not the result."""

from __future__ import annotations

import numpy as np

from ..ops.attention import attend
from . import Draw, Subject, law


@law("ring_attend")
def a_ring_is_plain_attention(ring_attend: Subject, draw: Draw) -> None:
    """Ring attention equals plain attention for any number of ranks and any placement, even if a rank has
    no tokens."""
    call = draw(ring_attend.calls(largest=7))
    q, k, v = (call[n].astype(np.float64) for n in "qkv")
    b, t = q.shape[:2]
    mask = np.broadcast_to(np.tri(t, dtype=bool), (b, t, t)) if call["causal"] else None
    expected = attend(q, k, v, mask, scale=call["scale"], softcap=call["softcap"])
    ring_attend.near(ring_attend(call), expected, call)


@law("place")
def ranks_hold_as_many_tokens_or_two_more(place: Subject, draw: Draw) -> None:
    """A rank has at most two tokens more than another rank, because slices differ by at most one token,
    and a rank has one or two slices.
    """
    call = draw(place.calls(largest=20))
    count = len(call["ranks"])
    call = call.but(positions=np.arange(len(call["positions"])), ranks=np.arange(count))
    counts = np.bincount(place(call), minlength=count)
    assert len(counts) == count, f"the ranks are numbered to {len(counts) - 1}, but there are {count} ranks"
    most = 2 if call["placement"] == "zigzag" else 1
    assert counts.max() - counts.min() <= most, (
        f"the ranks have {counts} tokens, which must differ by at most {most}"
    )


@law("place")
def zigzag_shares_the_work_of_a_causal_mask(place: Subject, draw: Draw) -> None:
    """With zigzag placement, all ranks do the same work under a causal mask if 2X divides T. The work of
    token t is the t + 1 keys that it sees."""
    call = draw(place.calls(placement="zigzag"))
    count = len(call["ranks"])
    at = np.arange(2 * count * len(call["positions"]))
    owner = place(call.but(positions=at, ranks=np.arange(count)))
    work = np.bincount(owner, weights=at + 1)
    assert (work == work[0]).all(), f"the tokens of the ranks see different numbers of keys: {work}"


@law("place")
def slices_are_in_order(place: Subject, draw: Draw) -> None:
    """With contiguous placement, later tokens are never on a lower rank. With striped placement,
    neighbouring tokens are on neighbouring ranks, in turn.
    """
    call = draw(place.calls(largest=20))
    count = len(call["ranks"])
    call = call.but(positions=np.arange(len(call["positions"])), ranks=np.arange(count))
    owner = place(call.but(placement="contiguous"))
    assert (np.diff(owner) >= 0).all(), f"the contiguous order isn't ascending: {owner}"
    striped = place(call.but(placement="striped"))
    assert (striped == call["positions"] % count).all(), (
        f"the striped order isn't position modulo ranks: {striped}"
    )

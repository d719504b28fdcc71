"""Laws of the KV cache."""

from __future__ import annotations

import numpy as np

from ..ops.cache import append as write
from . import Draw, Subject, law


@law("append")
def only_its_rows_are_written(append: Subject, draw: Draw) -> None:
    """`append` writes the new entries from `start` on. All other entries stay the same, and the old cache
    isn't changed.
    """
    call = draw(append.calls())
    kept = call["past"].copy()
    cache = append(call)
    assert (call["past"] == kept).all(), "the function changed the old cache"
    tokens = call["new"].shape[1]
    for row, first in enumerate(call["start"]):
        written = np.arange(first, first + tokens)
        append.near(cache[row][:, written], call["new"][row].swapaxes(0, 1))
        append.near(np.delete(cache[row], written, 1), np.delete(kept[row], written, 1))


@law("append", "append_by_head", "append_by_channel")
def any_split_of_the_tokens_is_one_write(append: Subject, draw: Draw) -> None:
    """Writing entries one by one gives the same cache as writing them in one call. Codes are exactly
    equal.
    """
    call = draw(append.calls())
    (name,) = {"past", "cache"} & set(call.arrays)
    cache = call[name]
    for t in range(call["new"].shape[1]):
        one = append.take(call, "T", [t])
        cache = append(one.but(**{name: cache, "start": call["start"] + t}))
    append.near(cache, append(call))


@law("append")
def truncated_entries_leave_no_trace(append: Subject, draw: Draw) -> None:
    """After new entries overwrite truncated entries, the cache is the same as if the truncated entries had
    never been written.
    """
    call = draw(append.calls())
    refused = call.but(new=call["new"][:, ::-1] + 1)
    append.near(append(call.but(past=append(refused))), append(call))


@law("grow")
def growing_equals_a_fixed_cache_of_the_new_length(grow: Subject, draw: Draw) -> None:
    """`grow` returns the same entries as `append` to a cache with the new length as its capacity."""
    call = draw(grow.calls())
    past, tokens = call["past"], call["new"].shape[1]
    room = np.pad(past, ((0, 0), (0, 0), (0, tokens), (0, 0)))
    grow.near(grow(call), write(room, call["new"], np.full(len(past), past.shape[2])))


@law("select")
def selected_rows_are_complete(select: Subject, draw: Draw) -> None:
    """`select` returns complete rows: row i of the result is the cache's row rows[i]. Selecting twice
    equals selecting once with the combined order.
    """
    call = draw(select.calls())
    chosen = select(call)
    for got, row in zip(chosen, call["rows"], strict=True):
        select.near(got, call["past"][row])
    order = np.arange(len(chosen))[::-1]
    select.near(select(chosen, order), select(call.but(rows=call["rows"][order])))

"""Laws of the KV cache."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law


@law("append")
def only_its_rows_are_written(append: Subject, draw: Draw) -> None:
    """The new entries stand at start …, all others are what they were, and the old cache is untouched."""
    call = draw(append.calls())
    kept = call["past"].copy()
    cache = append(call)
    assert (call["past"] == kept).all(), "the old cache was written"
    tokens = call["new"].shape[1]
    for row, first in enumerate(call["start"]):
        written = np.arange(first, first + tokens)
        append.near(cache[row][:, written], call["new"][row].swapaxes(0, 1))
        append.near(np.delete(cache[row], written, 1), np.delete(kept[row], written, 1))


@law("append")
def any_split_of_the_tokens_is_one_write(append: Subject, draw: Draw) -> None:
    """Entries written one by one are the entries written at once."""
    call = draw(append.calls())
    cache = call["past"]
    for t in range(call["new"].shape[1]):
        one = append.take(call, "T", [t])
        cache = append(one.but(past=cache, start=call["start"] + t))
    append.near(cache, append(call))

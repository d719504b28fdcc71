"""Laws of banded attention. They say that it is exactly attention within a window, not an approximation."""

from __future__ import annotations

import numpy as np

from ..ops.attention import attend
from . import Call, Draw, Subject, law


def _window(call: Call) -> np.ndarray:
    at = np.arange(call["q"].shape[1])
    behind = at[:, None] - at
    before, after = call["band"]
    near = (behind < before) | (at < call["sinks"])
    return near & (behind >= -after)


@law("banded_attend")
def banded_is_plain_attention_under_the_window(banded_attend: Subject, draw: Draw) -> None:
    """Banded attention equals attention over all keys with the window as its mask."""
    call = draw(banded_attend.calls())
    q, k, v = (call[n].astype(np.float64) for n in "qkv")
    mask = np.broadcast_to(_window(call), (q.shape[0], q.shape[1], q.shape[1]))
    if call["keys"] is not None:
        mask = mask & call["keys"][:, None]
    expected = attend(q, k, v, mask, scale=call["scale"], softcap=call["softcap"])
    banded_attend.near(banded_attend(call), expected, call)


@law("banded_attend")
def keys_outside_the_window_count_for_nothing(banded_attend: Subject, draw: Draw) -> None:
    """A key and its value change no query with a window that doesn't contain the key."""
    call = draw(banded_attend.calls())
    far = ~_window(call)[-1]
    garbage = np.where(far[:, None, None], 1e4, 0).astype(call["k"].dtype)
    other = call.but(k=call["k"] + garbage, v=call["v"] + garbage)
    banded_attend.near(banded_attend(other)[:, -1], banded_attend(call)[:, -1], call)

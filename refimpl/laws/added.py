"""Laws of positions that are added to the tokens' vectors."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from ..ops.position import rope_frequencies
from . import Call, Draw, Subject, law


def _waves(call: Call) -> Call:
    """Return the call with the frequencies of a real model."""
    return call.but(frequencies=rope_frequencies(np.arange(len(call["frequencies"])), theta=100.0))


@law("sinusoidal")
def products_depend_on_distance_only(sinusoidal: Subject, draw: Draw) -> None:
    """The product of two sinusoidal positions depends only on their distance: pe(p) · pe(q) = Σ_j cos(f_j
    (p − q)).
    """
    call, shift = _waves(draw(sinusoidal.calls(B=2))), draw(st.integers(0, 50))
    moved = call.but(positions=call["positions"] + shift)
    (a, b), (c, d) = sinusoidal(call), sinusoidal(moved)
    sinusoidal.near((c * d).sum(-1), (a * b).sum(-1), call, moved, times=2 * a.shape[-1])
    distance = (call["positions"][0] - call["positions"][1])[:, None] * call["frequencies"]
    sinusoidal.near((a * b).sum(-1), np.cos(distance).sum(-1), call, moved, times=2 * a.shape[-1])


@law("sinusoidal")
def both_layouts_hold_the_same_waves(sinusoidal: Subject, draw: Draw) -> None:
    """Interleaved sines and cosines are the same elements as separate sines and cosines, in another order."""
    call = _waves(draw(sinusoidal.calls(interleaved=False)))
    order = np.arange(2 * len(call["frequencies"])).reshape(2, -1).T.reshape(-1)
    sinusoidal.near(sinusoidal(call.but(interleaved=True)), sinusoidal(call)[..., order])


@law("learned")
def each_position_has_its_row(learned: Subject, draw: Draw) -> None:
    """Each learned position reads its own row, up to the table's last row. The offset skips rows at the
    table's beginning.
    """
    call = draw(learned.calls(M=6, offset=2))
    places = call.but(positions=np.array([[0, 1, 2, 3, 9]]))
    learned.near(learned(places)[0], call["table"][[2, 3, 4, 5, 5]])

"""Laws of multi-token prediction."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law


@law("mtp_input")
def each_half_of_the_map_reads_one_vector(mtp_input: Subject, draw: Draw) -> None:
    """`mtp_input` returns norm(x) times the upper half of the map, plus norm(h) times the lower half. The
    law computes this by einsum.
    """
    call = draw(mtp_input.calls(project=True))
    d = call["x"].shape[-1]
    halves = call["project"][:d].astype(np.float64), call["project"][d:].astype(np.float64)
    expected = np.zeros(call["x"].shape)
    for name, weight, half in zip(("x", "hidden"), ("token_norm", "hidden_norm"), halves, strict=True):
        vector = call[name].astype(np.float64)
        normed = vector / np.sqrt((vector * vector).mean(-1, keepdims=True) + call["eps"]) * call[weight]
        expected += np.einsum("btd,df->btf", normed, half)
    mtp_input.near(mtp_input(call), expected, call)

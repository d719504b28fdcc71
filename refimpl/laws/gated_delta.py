"""Laws of gated delta networks: how a row begins, and what the gate does. The laws of the networks' states
are in `laws.short_conv`.
"""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law


@law("gated_delta", "lightning", "mamba", "mamba2", "rg_lru", "time_mix", "channel_mix")
def a_row_that_begins_knows_nothing(mixer: Subject, draw: Draw) -> None:
    """If a row has no tokens before the call, the content of its cache doesn't change the result."""
    call = draw(mixer.calls())
    call = call.but(past=np.zeros_like(call["past"]))
    cache = call["cache"]
    kept = {name: array + 1 for name, array in cache._asdict().items() if name != "lengths"}
    other = call.but(cache=cache._replace(**kept))
    mixer.near(mixer(other), mixer(call), call)


@law("gated_delta")
def a_closed_gate_gives_nothing(gated_delta: Subject, draw: Draw) -> None:
    """If the output's gate is SiLU of zero, the layer's output is zero, whatever the state."""
    call = draw(gated_delta.calls(wi=True, wz_a=None, wo=True, sigmoid_gate=False))
    call = call.but(wz=np.zeros_like(call["wz"]))
    gated_delta.near(gated_delta(call)[0], np.zeros_like(call["x"]), call)

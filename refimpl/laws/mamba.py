"""Laws of the layers of Mamba and Mamba 2. The laws of their states are in `laws.short_conv`, and the laws
of how rows begin are in `laws.gated_delta`."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law


@law("mamba", "mamba2")
def a_step_of_no_length_changes_nothing(mamba: Subject, draw: Draw) -> None:
    """With a step Δ = 0 the state stays the same: the token isn't written, and nothing earlier decays."""
    call = draw(mamba.calls(wi=True, wz=True, wo=True, bi=None))
    call = call.but(wdt=np.zeros_like(call["wdt"]), dt_bias=np.full_like(call["dt_bias"], -200.0))
    call = call.but(past=np.ones_like(call["past"]))
    _, cache = mamba(call)
    mamba.near(cache[1], call["cache"].state, call)


@law("mamba", "mamba2")
def a_closed_gate_gives_the_bias(mamba: Subject, draw: Draw) -> None:
    """If the output's gate is zero, the layer returns the bias of its last map, whatever the state."""
    call = draw(mamba.calls(wi=True, wz=True, wo=True, bi=None))
    call = call.but(wz=np.zeros_like(call["wz"]))
    bias = 0 if call["bo"] is None else call["bo"]
    mamba.near(mamba(call)[0], np.zeros_like(call["x"]) + bias, call)

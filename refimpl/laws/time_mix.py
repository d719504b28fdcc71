"""Laws of RWKV's two sublayers over whole texts. The laws of their states are in `laws.short_conv`, and those
of how rows begin in `laws.gated_delta`.
"""

from __future__ import annotations

import numpy as np

from ..ops.activation import sigmoid
from ..ops.linear import linear
from . import Draw, Subject, law
from .kit.call import Call


def shifted(call: Call) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of a call, and those of the tokens before them."""
    x = call["x"].astype(np.float64)
    tail = call["tail"] * (call["past"] > 0)[:, None, None]
    return x, np.concatenate([tail, x], 1)[:, :-1]


@law("time_mix")
def without_decay_and_keys_it_is_a_running_mean(time_mix: Subject, draw: Draw) -> None:
    """If all keys are 0, nothing fades, and a token has no bonus, channels are the mean of all values so
    far."""
    call = draw(time_mix.calls(lengths=None, wk=True, wv=True, wr=True, wo=True))
    still = {"wk": np.zeros_like(call["wk"]), "bonus": np.zeros_like(call["bonus"])}
    call = call.but(
        **still, log_rate=np.full_like(call["log_rate"], -200.0), past=np.zeros_like(call["past"])
    )
    x, before = shifted(call)
    v, r = (
        linear(x * call[f"mix_{n}"] + before * (1 - call[f"mix_{n}"].astype(np.float64)), call[f"w{n}"])
        for n in ("v", "r")
    )
    mean = v.cumsum(1) / np.arange(1, v.shape[1] + 1)[:, None]
    time_mix.near(time_mix(call)[0], linear(sigmoid(r) * mean, call["wo"]), call)


@law("channel_mix")
def the_sublayer_is_its_formula(channel_mix: Subject, draw: Draw) -> None:
    """The result equals units and gate, each made from a token and the one before it."""
    call = draw(channel_mix.calls(lengths=None, w_units=True, w_gate=True, w_down=True))
    x, before = shifted(call)
    units, gate = (
        linear(x * call[f"mix_{n}"] + before * (1 - call[f"mix_{n}"].astype(np.float64)), call[f"w_{n}"])
        for n in ("units", "gate")
    )
    y = sigmoid(gate) * linear(np.maximum(units, 0) ** 2, call["w_down"])
    channel_mix.near(channel_mix(call)[0], y, call)

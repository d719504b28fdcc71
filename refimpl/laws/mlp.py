"""Laws of the position-wise feed-forward network."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ops.gaussian_topk import gaussian_topk
from ..ops.mlp import glu, hidden_units
from . import Draw, Subject, law
from .kit.strategies import permutations


@law("plain_mlp", "gated_mlp")
def hidden_units_are_a_set(mlp: Subject, draw: Draw) -> None:
    """The order of an mlp's hidden units doesn't matter, if all its weights are permuted alike."""
    call = draw(mlp.calls(**{n: True for n in ("gate", "up", "down") if n in mlp.choices}))
    other = mlp.take(call, "F", draw(permutations(call["up"].shape[1])))
    mlp.near(mlp(other), mlp(call), other, call)


@law("plain_mlp")
def the_network_is_its_formula(plain_mlp: Subject, draw: Draw) -> None:
    """`plain_mlp` returns act(x · up + bup) · down + bdown. The law computes this by einsum."""
    call = draw(plain_mlp.calls(up=True, down=True))
    x, up, down, bup, bdown = (_exact(call[n]) for n in ("x", "up", "down", "bup", "bdown"))
    curves: Any = {n: _exact(call[n]) for n in ("alpha_p", "alpha_n") if call[n] is not None}
    hidden = hidden_units(np.einsum("btd,df->btf", x, up) + bup, curves, call["kind"])
    plain_mlp.near(plain_mlp(call), np.einsum("btf,fd->btd", hidden, down) + bdown, call)


@law("gated_mlp")
def the_gate_multiplies_the_hidden_units(gated_mlp: Subject, draw: Draw) -> None:
    """`gated_mlp` returns norm(act(topk(s · (x · gate + bgate))) ⊙ (x · up + bup)) · down + bdown. The law
    computes this by einsum.
    """
    call = draw(gated_mlp.calls(gate=True, up=True, down=True))
    names = ("x", "gate", "up", "down", "bgate", "bup", "bdown")
    x, gate, up, down, bgate, bup, bdown = (_exact(call[n]) for n in names)
    scale = 1 if call["gate_scale"] is None else call["gate_scale"]
    gates = scale * (np.einsum("btd,df->btf", x, gate) + bgate)
    if call["sparsity"] is not None:
        gates = gaussian_topk(gates, share=call["sparsity"])
    hidden = glu(gates, np.einsum("btd,df->btf", x, up) + bup, call["kind"])
    if call["down_norm"] is not None:
        length = np.sqrt((hidden * hidden).mean(-1, keepdims=True) + call["norm_eps"])
        hidden = hidden / length * _exact(call["down_norm"])
    gated_mlp.near(gated_mlp(call), np.einsum("btf,fd->btd", hidden, down) + bdown, call)


@law("swiglu_oai")
def beyond_the_limit_nothing_changes(swiglu_oai: Subject, draw: Draw) -> None:
    """`swiglu_oai` treats a gate above the limit as the limit, but doesn't clamp low gates. It clamps up
    on both sides."""
    call = draw(swiglu_oai.calls())
    gate, up, limit = call["gate"], call["up"], np.float32(call["limit"])
    inside = call.but(gate=np.minimum(gate, limit), up=np.clip(up, -limit, limit))
    swiglu_oai.near(swiglu_oai(call), swiglu_oai(inside), call, inside)
    far = call.but(gate=np.full_like(gate, -1e4))
    assert not swiglu_oai(far).any(), "with a gate far below 0, the result isn't 0"


@law("swiglu_oai")
def one_is_added_to_up(swiglu_oai: Subject, draw: Draw) -> None:
    """`swiglu_oai` multiplies the gate's value by up + 1. So if up is 0, it returns the gate's value."""
    call = draw(swiglu_oai.calls())
    gate = np.minimum(call["gate"].astype(np.float64), call["limit"])
    alone = call.but(up=np.zeros_like(call["up"]))
    e = np.exp(-call["alpha"] * np.abs(gate))
    swiglu_oai.near(swiglu_oai(alone), gate * np.where(gate >= 0, 1, e) / (1 + e), alone)
    up = np.clip(call["up"].astype(np.float64), -call["limit"], call["limit"])
    times = 1 + call["limit"]
    swiglu_oai.near(swiglu_oai(call), swiglu_oai(alone) * (1 + up), call, alone, times=times)


def _exact(array: np.ndarray | None) -> np.ndarray:
    return np.zeros(()) if array is None else array.astype(np.float64)

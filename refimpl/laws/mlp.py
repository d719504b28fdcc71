"""Laws of the position-wise feed-forward network."""

from __future__ import annotations

import numpy as np

from ..ops.activation import activation
from . import Draw, Subject, law
from .kit.strategies import permutations


@law("plain_mlp", "gated_mlp")
def hidden_units_are_a_set(mlp: Subject, draw: Draw) -> None:
    """The order of the hidden units doesn't matter, if all weights keep the same one."""
    call = draw(mlp.calls(**{n: True for n in ("gate", "up", "down") if n in mlp.choices}))
    other = mlp.take(call, "F", draw(permutations(call["up"].shape[1])))
    mlp.near(mlp(other), mlp(call), other, call)


@law("plain_mlp")
def the_network_is_its_formula(plain_mlp: Subject, draw: Draw) -> None:
    """act(x · up + bup) · down + bdown, by einsum."""
    call = draw(plain_mlp.calls(up=True, down=True))
    x, up, down, bup, bdown = (_exact(call[n]) for n in ("x", "up", "down", "bup", "bdown"))
    hidden = activation(np.einsum("btd,df->btf", x, up) + bup, kind=call["kind"])
    plain_mlp.near(plain_mlp(call), np.einsum("btf,fd->btd", hidden, down) + bdown, call)


@law("gated_mlp")
def the_gate_multiplies_the_hidden_units(gated_mlp: Subject, draw: Draw) -> None:
    """(act(x · gate + bgate) ⊙ (x · up + bup)) · down + bdown, by einsum."""
    call = draw(gated_mlp.calls(gate=True, up=True, down=True))
    names = ("x", "gate", "up", "down", "bgate", "bup", "bdown")
    x, gate, up, down, bgate, bup, bdown = (_exact(call[n]) for n in names)
    shut = activation(np.einsum("btd,df->btf", x, gate) + bgate, kind=call["kind"])
    hidden = shut * (np.einsum("btd,df->btf", x, up) + bup)
    gated_mlp.near(gated_mlp(call), np.einsum("btf,fd->btd", hidden, down) + bdown, call)


def _exact(array: np.ndarray | None) -> np.ndarray:
    return np.zeros(()) if array is None else array.astype(np.float64)

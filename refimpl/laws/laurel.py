"""Laws of the learned residual (LAuReL)."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law


@law("laurel")
def the_sum_is_its_formula(laurel: Subject, draw: Draw) -> None:
    """`laurel` returns (h + x + norm(x · left · right)) / √2. The law computes this by einsum."""
    call = draw(laurel.calls(left=True, right=True))
    x, h, left, right, norm = (call[n].astype(np.float64) for n in ("x", "h", "left", "right", "norm"))
    learned = np.einsum("btf,fe->bte", np.einsum("btd,df->btf", x, left), right)
    learned /= np.sqrt(np.mean(learned**2, -1, keepdims=True) + call["eps"])
    laurel.near(laurel(call), (h + x + norm * learned) / np.sqrt(2), call)


@law("laurel")
def a_map_to_nothing_leaves_the_mean(laurel: Subject, draw: Draw) -> None:
    """If `right` is 0, `laurel` returns the sum of h and x, divided by √2."""
    call = draw(laurel.calls(right=True))
    other = call.but(right=np.zeros_like(call["right"]))
    x, h = (call[n].astype(np.float64) for n in ("x", "h"))
    laurel.near(laurel(other), (x + h) / np.sqrt(2), other)

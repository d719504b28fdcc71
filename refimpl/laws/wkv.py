"""Laws of RWKV's average: it is the mean that its formula states, and only the differences of keys matter."""

from __future__ import annotations

import numpy as np

from . import Draw, Subject, law
from .kit.one_pass import in_two

STATE = "numerator", "denominator", "exponent"


@law("wkv")
def any_split_of_the_tokens_is_one_pass(wkv: Subject, draw: Draw) -> None:
    """A later token needs only the sums over earlier ones."""
    in_two(wkv, draw, draw(wkv.calls()), lambda cut, *state: dict(zip(STATE, state, strict=True)))


@law("wkv")
def it_is_a_mean_with_fading_weights(wkv: Subject, draw: Draw) -> None:
    """The outputs equal the formula, with the weight of each pair of tokens, divided by the largest weight.
    The state counts as one more token, before the first."""
    call = draw(wkv.calls())
    k, v, decay, bonus = (call[n].astype(np.float64) for n in ("k", "v", "decay", "bonus"))
    n, d, m = (call[name].astype(np.float64) for name in STATE)
    keys = np.concatenate([(m + np.log(d))[:, None], k], 1)
    values = np.concatenate([(n / d)[:, None], v], 1)
    y = np.zeros_like(v)
    for t in range(k.shape[1]):
        lost = [decay[:, s:t].sum(1) for s in range(t + 1)]
        weight = np.stack([*(keys[:, s] + lost[s] for s in range(t + 1)), k[:, t] + bonus], 1)
        weight = np.exp(weight - weight.max(1, keepdims=True))
        y[:, t] = (weight * values[:, : t + 2]).sum(1) / weight.sum(1)
    wkv.near(wkv(call)[0], y, call)


@law("wkv")
def only_differences_of_keys_matter(wkv: Subject, draw: Draw) -> None:
    """If the same number is added to all keys of a channel and to the state's exponent, the outputs
    stay, even where no exponential of such a key is a number."""
    call = draw(wkv.calls())
    more = call.but(k=call["k"] + 256, exponent=call["exponent"] + 256)
    y, *state = wkv(call)
    z, *moved = wkv(more)
    moved[2] = moved[2] - 256
    wkv.near((z, *moved), (y, *state), call, more)


@law("wkv")
def a_token_that_isnt_there_changes_nothing(wkv: Subject, draw: Draw) -> None:
    """A key of −2e30 without decay leaves the state as it is."""
    call = draw(wkv.calls())
    call = call.but(k=np.full_like(call["k"], -2e30), decay=np.zeros_like(call["decay"]))
    _, *state = wkv(call)
    wkv.near(tuple(state), tuple(call[name] for name in STATE), call)

"""The selective scan: each channel stores a few numbers, and each number decays at its own rate.

A channel is a signal x_t, one number a token. It drives a linear system with a state h of K numbers:

    h'(t) = A h(t) + B x(t)        A diagonal and negative: each number fades by itself
    y(t)  = C h(t)

Let the signal keep the value x_t for a time Δ. Then the state is, with Ā = exp(Δ A) and B̄ ≈ Δ B,

    h_t = exp(Δ_t A) h_{t−1} + Δ_t B_t x_t         y_t = C_t h_t

(Gu & Dao 2023, Mamba, eq. 1, 2 and 4; exactly, B̄ = (Ā − 1)/A · B, of which Δ B is the first term.)
Earlier state-space models had the same B, C and Δ for each token. Here they are made from the token, so
that a model can select (§3.2): with Δ → 0 a token is skipped and the state kept; with a large Δ the
earlier state decays away and the token is written. All channels share B_t and C_t; A and Δ_t are each
channel's own.

**As attention.** A channel is a head of linear attention with decay. The head's value is one number, Δ x.
B is the key and C the query of all heads, and each element of a head's key decays at its own rate
(`ops.delta`, the rule "gated"). In Mamba 2 (`ops.ssd`) a whole head decays at one rate. That is why its
scores can be written as a product of queries and keys times one mask. Here each pair of a channel and an
element of its state has a mask of its own, so the matrix form would need F · K masks.

**In parallel.** A step changes the state by an affine map, h → a h + w with a = exp(Δ A) and w = Δ B x.
Two of them in a row are one affine map again,

    (a, w) then (a', w')   =   (a a', a' w + w')

and that product is associative. So prefixes are found in log T rounds that double their reach (Hillis &
Steele 1986; for state spaces Smith et al. 2023, S5, §2.2; the paper's §3.3.2 does so in a GPU's fast
memory):

    token     0       1       2       3
    maps      0       1       2       3
    round 1   0       0 1     1 2     2 3             each times the map one place before
    round 2   0       0 1     0 1 2   0 1 2 3         each times the result two places before

A factor a is never above 1, and nothing is divided by a, so nothing overflows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float


@op
def selective_scan(
    x: Float[Array, "B T F"],
    step: Float[Array, "B T F"],
    rates: Float[Array, "F K"],
    b: Float[Array, "B T K"],
    c: Float[Array, "B T K"],
    state: Float[Array, "B F K"],
) -> tuple[Float[Array, "B T F"], Float[Array, "B F K"]]:
    """Compute the selective scan token by token: h ← exp(Δ_t A) ∘ h + (Δ_t x_t) b_tᵀ, y_t = h c_t. Returns
    y and the last h.

    `step` is Δ ≥ 0 and `rates` is A ≤ 0. Conventions: a token reads what it has just written, without
    decay. If Δ is 0, the state doesn't change. (Gu & Dao 2023, algorithm 2, with B̄ = Δ B as in its code.)
    """
    y = np.zeros_like(x)
    for t in range(x.shape[1]):
        state = np.exp(step[:, t, :, None] * rates) * state
        state = state + (step[:, t] * x[:, t])[..., None] * b[:, t, None]
        y[:, t] = np.einsum("bfk,bk->bf", state, c[:, t])
    return y, state


@op
def selective_scan_chunked(
    x: Float[Array, "B T F"],
    step: Float[Array, "B T F"],
    rates: Float[Array, "F K"],
    b: Float[Array, "B T K"],
    c: Float[Array, "B T K"],
    state: Float[Array, "B F K"],
    *,
    chunk: int,
) -> tuple[Float[Array, "B T F"], Float[Array, "B F K"]]:
    """Compute the same results as `selective_scan`: in parallel within chunks of `chunk` tokens, and by
    the recurrence from chunk to chunk.

    Conventions: as in `selective_scan`. The last chunk may be shorter.
    """
    y = np.zeros_like(x)
    for start in range(0, x.shape[1], chunk):
        at = slice(start, start + chunk)
        kept = np.exp(step[:, at, :, None] * rates)
        written = (step[:, at] * x[:, at])[..., None] * b[:, at, None]
        reach = 1
        while reach < kept.shape[1]:
            later = written[:, reach:] + kept[:, reach:] * written[:, :-reach]
            written = np.concatenate([written[:, :reach], later], axis=1)
            kept = np.concatenate([kept[:, :reach], kept[:, reach:] * kept[:, :-reach]], axis=1)
            reach *= 2
        states = kept * state[:, None] + written
        y[:, at] = np.einsum("btfk,btk->btf", states, c[:, at])
        state = states[:, -1]
    return y, state

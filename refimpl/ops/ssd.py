"""State-space duality: one map from texts to texts that is both a recurrence and attention with a decaying
mask.

A selective state-space model (Mamba) keeps a state S [K, V], which is like a table from keys to values. A
token has a value x [V], the key b [K] under which the value is added, and the key c [K] with which the
token reads. It also has a decay ≤ 0, one number per head. The share a = exp(decay) of everything earlier
stays:

    S_t = a_t S_{t−1} + b_t x_tᵀ         forget a share, add
    y_t = S_tᵀ c_t                       read

**As attention.** When token t reads what token s wrote, the value has been multiplied by every decay after
s, so

    y_t = Σ_{s≤t} (a_{s+1} ⋯ a_t) (c_t·b_s) x_s          y = (L ∘ C Bᵀ) X

with queries C, keys B, values X, no softmax, and ∘ element by element. Instead of ones, the causal mask L
has numbers that decay; blanks are zeros. Nothing is divided by √K, and weights needn't be positive nor sum
to 1:

             s = 0       1       2     3
    t = 0    1
        1    a1          1
        2    a1 a2       a2      1
        3    a1 a2 a3    a2 a3   a3    1

A state from before token 0 adds (a0 ⋯ a_t) S₋₁ᵀ c_t. Only this term contains a0.

**Both.** Any rectangle of L below its diagonal is a column u times a row w: here rows 2 and 3 of columns 0
and 1 are (a2, a2 a3)ᵀ (a1, 1). Its part of y is then (u ∘ C) ((w ∘ B)ᵀ X), and the right brackets contain
a state [K, V]. So a chunk of tokens needs only one state from all earlier chunks. The matrix is needed
only within a chunk:

    ┌─────┬─────┬─────┐
    │ L   │     │     │       L    the masked product of a chunk with itself
    ├─────┼─────┼─────┤       S    what came before: the state at the chunk's begin, read by its tokens
    │ S   │ L   │     │
    ├─────┼─────┼─────┤       T tokens in chunks of A take T·A products of keys and T/A states, the
    │ S   │ S   │ L   │       last of which is returned; A = 1 is the recurrence, A = T the attention
    └─────┴─────┴─────┘

A token costs about 3·K·V multiplications per head in the recurrence, and A·(K + V) + 2·K·V in chunks. But
the T steps of the recurrence wait for one another. Chunks leave T/A such steps; the rest is matrix
products, which processors compute far faster than the same number of multiplications in sequence. So the
recurrence is for generating one token after another, chunks are for long texts, and the whole matrix is
for short texts.

The three forms give equal results, as a law checks. Which form is fastest depends on the machine. (Dao &
Gu 2024, Transformers are SSMs: the recurrence and its matrix in §2.1 and §3.1, such matrices in §3.2,
masks in §4, the duality in §5, chunks in §6. The paper's A is exp(decay) here, its S is transposed.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float


@op
def ssd_recurrent(
    x: Float[Array, "B T H V"],
    decay: Float[Array, "B T H"],
    b: Float[Array, "B T G K"],
    c: Float[Array, "B T G K"],
    state: Float[Array, "B H K V"],
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Compute the state-space map token by token: S ← exp(decay_t) S + b_t x_tᵀ, y_t = Sᵀ c_t. Returns y
    and the last S.

    Conventions: decay ≤ 0. Head h uses the keys of group h // R, with R = H / G, as query heads share a
    key head in attention. A token reads what it has just written, without decay.
    """
    share = x.shape[2] // b.shape[2]
    b, c = np.repeat(b, share, axis=2), np.repeat(c, share, axis=2)
    y = np.zeros_like(x)
    for t in range(x.shape[1]):
        state = np.exp(decay[:, t])[..., None, None] * state + b[:, t, :, :, None] * x[:, t, :, None, :]
        y[:, t] = np.einsum("bhkv,bhk->bhv", state, c[:, t])
    return y, state


@op
def ssd_quadratic(
    x: Float[Array, "B T H V"],
    decay: Float[Array, "B T H"],
    b: Float[Array, "B T G K"],
    c: Float[Array, "B T G K"],
    state: Float[Array, "B H K V"],
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Compute the same results as `ssd_recurrent` by the whole matrix: (L ∘ C Bᵀ) X, plus the contribution
    of the earlier state after its decay.

    d_ts is the sum of the decays after token s up to token t, and d_t is the sum from the beginning:

        y_t = Σ_{s≤t} exp(d_ts) (c_t·b_s) x_s + exp(d_t) Sᵀ c_t
        S ← exp(d_T) S + Σ_s exp(d_Ts) b_s x_sᵀ

    Conventions: as in `ssd_recurrent`. d_ts is summed directly. A difference of two sums would lose the
    small decays beside large ones.
    """
    share, tokens = x.shape[2] // b.shape[2], x.shape[1]
    x, b, c = (a.transpose(0, 2, 1, 3) for a in (x, b, c))
    b, c = np.repeat(b, share, axis=1), np.repeat(c, share, axis=1)
    decay = decay.transpose(0, 2, 1)
    # Row t holds its own decay in the columns s < t: summed from the top, d_ts.
    sums = np.cumsum(np.where(np.tri(tokens, k=-1, dtype=bool), decay[..., None], 0), axis=2)
    mask = np.where(np.tri(tokens, dtype=bool), np.exp(sums), 0)
    since = np.exp(np.cumsum(decay, axis=2))[..., None]
    y = (mask * (c @ b.swapaxes(2, 3))) @ x + since * (c @ state)
    written = (b * mask[:, :, -1, :, None]).swapaxes(2, 3) @ x
    return y.transpose(0, 2, 1, 3), since[:, :, -1:] * state + written


@op
def ssd_chunked(
    x: Float[Array, "B T H V"],
    decay: Float[Array, "B T H"],
    b: Float[Array, "B T G K"],
    c: Float[Array, "B T G K"],
    state: Float[Array, "B H K V"],
    *,
    chunk: int,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Compute the same results as `ssd_recurrent`: with the matrix within chunks of `chunk` tokens, and
    with the recurrence from chunk to chunk (§6).

    Conventions: as in `ssd_recurrent`. The last chunk may be shorter.
    """
    y = np.zeros_like(x)
    for start in range(0, x.shape[1], chunk):
        at = slice(start, start + chunk)
        y[:, at], state = ssd_quadratic(x[:, at], decay[:, at], b[:, at], c[:, at], state)
    return y, state

"""The average of RWKV: each channel averages the values of all tokens so far, and older tokens fade.

A channel's key k_s says how much token s counts, and its decay δ ≤ 0 how fast a token fades. The token itself
counts e^bonus times as much as its key says (Peng et al. 2023, "RWKV: Reinventing RNNs for the Transformer
Era", arXiv 2305.13048, §3.1, equation 16):

          Σ_{s<t} e^{k_s + δ_{s+1} + … + δ_{t−1}} v_s + e^{bonus + k_t} v_t
    y_t = ─────────────────────────────────────────────────────────────────
          Σ_{s<t} e^{k_s + δ_{s+1} + … + δ_{t−1}}     + e^{bonus + k_t}

It is attention without queries: the weights depend on the key and on the distance. So two sums of each
channel are enough to go on from. Exponentials of keys overflow. So a state (n, d, m) holds the sums as n e^m
and d e^m, where m is the largest exponent so far (the paper's appendix D), so that d is at least 1. Before a
text's first token n is 0, d is 1, and m is `NEVER`, whose exponential is 0 beside any other.

**In parallel.** The sums of two parts of a text are joined by the rule that goes from token to token. Where
the first fade by δ until the end of the second, they are, with M = max(m + δ, m'),

    (n, d, m) then (n', d', m')   =   (n e^{m + δ − M} + n' e^{m' − M}, d e^{m + δ − M} + d' e^{m' − M}, M)

which is associative. So a target can find all sums in log T rounds, as in `ops.selective_scan`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Float

NEVER = -1e30  # the largest exponent of no token at all
PADDING = 2 * NEVER  # the key of a token that isn't there, whose weight is 0 even beside no token at all


@op
def wkv(
    k: Float[Array, "B T F"],
    v: Float[Array, "B T F"],
    decay: Float[Array, "B T F"],
    bonus: Float[Array, " F"],
    numerator: Float[Array, "B F"],
    denominator: Float[Array, "B F"],
    exponent: Float[Array, "B F"],
) -> tuple[Float[Array, "B T F"], Float[Array, "B F"], Float[Array, "B F"], Float[Array, "B F"]]:
    """Compute RWKV's average of the values so far, token by token. The state before the call is
    `numerator` · e^`exponent` and `denominator` · e^`exponent`. Returns y and the state after the last token.

    `decay` ≤ 0 is that of all earlier tokens when a token is added. Conventions: a token is read with its
    bonus and before anything fades, then added without a bonus. (transformers' rwkv_linear_attention_cpu.)
    """
    y = np.zeros_like(v)
    for t in range(k.shape[1]):
        most = np.maximum(exponent, k[:, t] + bonus)
        old, new = np.exp(exponent - most), np.exp(k[:, t] + bonus - most)
        y[:, t] = (old * numerator + new * v[:, t]) / (old * denominator + new)
        most = np.maximum(exponent + decay[:, t], k[:, t])
        old, new = np.exp(exponent + decay[:, t] - most), np.exp(k[:, t] - most)
        numerator, denominator = old * numerator + new * v[:, t], old * denominator + new
        exponent = most
    return y, numerator, denominator, exponent

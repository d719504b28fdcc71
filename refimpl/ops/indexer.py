"""The lightning indexer: a cheap score of all earlier tokens chooses the few tokens that attention sees
(DeepSeek-AI 2025, DeepSeek-V3.2, arXiv 2512.02556, §2.1, eq. 1: DeepSeek Sparse Attention).

Attention over a long text costs most in the heads: each of many heads scores each token with wide vectors.
An indexer has a few narrow heads of its own, which share one key per token. The score of query t and key s
is

    I(t, s) = Σ_h  w(t, h) · max(0, q(t, h) · k(s))        w too is computed from the query's token

and attention sees only the `topk` keys with the highest scores:

    topk 2           key  0     1     2     3             key  0 1 2 3
          scores 2        0.1   0.7   0.3         seen  2      . x x
                 3        0.9   0.2   0.0   0.4         3      x . . x

A head with a negative product adds nothing. With more than `topk` tokens, a query's attention costs the
same however long the text is. The indexer's own scores still grow with the text, at a fraction of the
cost. With up to `topk` tokens, all tokens are seen, and the result is plain attention.

Neighbouring layers choose nearly the same tokens. So only some layers have an indexer, and the layers
after each of them use its choice, at no cost (GLM-5; IndexCache, arXiv 2603.12201):

    layer    0        1        2        3        4
    indexer  chooses  shares   shares   chooses  shares
    sees     s0       s0       s0       s3       s3
    keeps    c, k     c        c        c, k     c           c latent, k key of the indexer

A wrong choice is never a small error: if two scores differ by no more than rounding, another key may be
chosen, at any precision. So the maps that make scores stay floats in every quantization, and float16 isn't
allowed. If another key is chosen in a text that is compared, the error is as large as the outputs, and the
comparison fails. The exception is a text in which an ulp of the inputs changes the specification's choice
too. Then the error budget is as large as the outputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .dispatch import op

if TYPE_CHECKING:
    from ..axes import Array, Bool, Float

FLOAT16 = "an indexer's scores are too near to each other for float16, which would choose other tokens"


@op
def index_scores(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B S K"],
    weights: Float[Array, "B T H"],
) -> Float[Array, "B T S"]:
    """Compute the indexer's score of each query and key: Σ_h weights[h] · max(0, q[h] · k) (eq. 1).

    Conventions: DeepSeek's code divides by √K and √H. Such factors don't change the order of scores, so
    they are left out. For speed, that code also multiplies q and k by one orthogonal matrix and rounds
    them to 8 bits. Neither step is done here.
    """
    products = np.einsum("bthk,bsk->bths", q, k)
    return np.einsum("bths,bth->bts", np.maximum(products, 0), weights)


@op
def best_keys(
    scores: Float[Array, "B T S"],
    mask: Bool[Array, "B T S"],
    *,
    topk: int,
) -> Bool[Array, "B T S"]:
    """Return a mask that is true for the `topk` keys with the highest scores among the keys that the mask
    allows. If fewer than `topk` keys are allowed, the result is true for all of them.

    Conventions: of equal scores the earlier key comes first, as in ONNX's TopK; PyTorch's topk takes any.
    Scores are often equal: if no head adds anything to several scores, they are all zero.
    """
    order = np.argsort(-np.where(mask, scores, -np.inf), axis=-1, kind="stable")
    best = np.zeros(mask.shape, bool)
    np.put_along_axis(best, order[..., :topk], True, axis=-1)
    return best & mask

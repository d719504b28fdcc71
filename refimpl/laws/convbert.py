"""Laws of ConvBERT's attention: some heads attend, and the other heads convolve with a kernel made from
each token.
"""

from __future__ import annotations

import numpy as np

from . import Call, Draw, Subject, law


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _expected(x: np.ndarray, call: Call) -> np.ndarray:
    """Return the result of the sublayer over one text [T, D], computed token by token."""
    a, out = call["settings"], []

    def mapped(vector: np.ndarray, name: str) -> np.ndarray:
        return vector @ call[f"w{name}"].astype(np.float64) + call[f"b{name}"]

    def by_head(vector: np.ndarray) -> np.ndarray:
        return vector.reshape(a.heads, -1)

    keys, values = (np.array([by_head(mapped(one, n)) for one in x]) for n in "kv")
    for t, one in enumerate(x):
        q = mapped(one, "q")
        seen = _softmax(np.einsum("hk,shk->hs", by_head(q), keys) / np.sqrt(a.head_size))
        places = [(j, t - a.neighbours + j) for j in range(2 * a.neighbours + 1)]
        near = [(j, x[s]) for j, s in places if 0 <= s < len(x)]
        around = np.sum([call["conv"][j] * other for j, other in near], axis=0)
        shares = _softmax(by_head(mapped(mapped(around, "_conv") * q, "_kernel")))
        mean = sum(shares[:, j : j + 1] * by_head(mapped(other, "_near")) for j, other in near)
        both = np.concatenate([np.einsum("hs,shk->hk", seen, values), mean])
        out.append(mapped(both.reshape(-1), "o"))
    return np.array(out).reshape(x.shape)


@law("convbert_attention")
def it_is_a_softmax_over_all_and_a_mean_of_neighbours(convbert_attention: Subject, draw: Draw) -> None:
    """ConvBERT's attention equals its formula, computed token by token. A kernel keeps the weights of
    neighbours that lie outside the text.
    """
    arrays = dict.fromkeys(("wq", "wk", "wv", "w_conv", "w_kernel", "w_near", "wo"), True)
    call = draw(convbert_attention.calls(**arrays))
    got, expected = convbert_attention(call), np.zeros(call["x"].shape)
    for row, length in enumerate(call["lengths"]):
        expected[row, :length] = _expected(call["x"][row, :length].astype(np.float64), call)
    past = np.arange(got.shape[1]) >= call["lengths"][:, None]
    convbert_attention.near(np.where(past[:, :, None], 0, got), expected, call)

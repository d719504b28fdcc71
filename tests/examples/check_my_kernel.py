"""Hold an attention kernel of your own to the specification and to the laws of attention.

    pip install -e '.[laws]' && python tests/examples/check_my_kernel.py

The kernel goes over the keys in tiles with a running maximum, as flash attention does. A copy of it that
forgets to rescale what it has summed so far breaks a law, and the smallest such input is printed.
"""

# ruff: noqa: T201  (a script: what it prints is its result)

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from tfm.refimpl.laws import check


def my_attention(
    q: Any, k: Any, v: Any, mask: Any = None, bias: Any = None, *, scale: Any = None, rescale: bool = True
) -> Any:
    """softmax(scale · q kᵀ + bias) v, two keys at a time; query head h reads key head h // (H / G)."""
    heads, size = q.shape[2:]
    k, v = (np.repeat(a, heads // a.shape[2], axis=2) for a in (k, v))
    scores = np.einsum("bthk,bshk->bhts", q, k) * (size**-0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = np.where(mask[:, None], scores, -np.inf)
    largest = np.full((*scores.shape[:-1], 1), -np.inf)
    total = np.zeros_like(largest)
    weighted = np.zeros((*scores.shape[:-1], v.shape[-1]))
    for start in range(0, scores.shape[-1], 2):
        tile = scores[..., start : start + 2]
        new_largest = np.maximum(largest, tile.max(-1, keepdims=True))
        finite = np.where(np.isfinite(new_largest), new_largest, 0)
        shrink = np.exp(largest - finite) if rescale else 1.0
        weights = np.exp(tile - finite)
        values = np.einsum("bhts,bshk->bhtk", weights, v[:, start : start + 2])
        total = total * shrink + weights.sum(-1, keepdims=True)
        weighted = weighted * shrink + values
        largest = new_largest
    return np.moveaxis(weighted / np.where(total == 0, 1, total), 1, 2).astype(q.dtype)


def main() -> None:
    check("attend", my_attention, softcap=None)
    print("my_attention keeps every law of attend")
    try:
        check("attend", partial(my_attention, rescale=False), softcap=None)
    except AssertionError as broken:
        print(f"\nwithout rescaling:\n{broken}")


if __name__ == "__main__":
    main()

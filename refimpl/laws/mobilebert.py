"""Laws of MobileBERT's bottleneck: attention and mlps over narrow vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..config import Affine
from ..ops.linear import linear
from . import Call, Draw, Subject, law


def _normed(x: np.ndarray, leaves: Mapping[str, Any], call: Call) -> np.ndarray:
    if not isinstance(norm := call["settings"].norm, Affine):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + norm.eps)
    return x * leaves["weight"] + leaves["bias"]


def _expected(x: np.ndarray, call: Call) -> np.ndarray:
    """Return the result of the sublayer over one text [T, D]."""
    s, weights = call["settings"], call["weights"]
    act = {"relu": lambda y: np.maximum(y, 0), "tanh": np.tanh}[s.mlps[0].activation]

    def mapped(vectors: np.ndarray, name: str) -> np.ndarray:
        return linear(vectors, call[f"w_{name}"], call[f"b_{name}"])

    def by_head(vectors: np.ndarray, name: str) -> np.ndarray:
        return mapped(vectors, name).reshape(len(x), s.heads, s.head_size)

    narrow = _normed(mapped(x, "narrow"), weights["narrow_norm"], call)
    asking = _normed(mapped(x, "shared"), weights["shared_norm"], call) if s.shared else narrow
    q, k, v = (
        by_head(asking, "query"),
        by_head(asking, "key"),
        by_head(x if s.wide_values else narrow, "value"),
    )
    scores = np.einsum("thk,shk->hts", q, k) / np.sqrt(s.head_size)
    scores = np.exp(scores - scores.max(-1, keepdims=True, initial=-np.inf))
    mixed = np.einsum("hts,shk->thk", scores / scores.sum(-1, keepdims=True), v).reshape(
        len(x), s.inner_width
    )
    narrow = _normed(narrow + linear(mixed, call["wo"], call["bo"]), weights["out_norm"], call)
    for mlp in weights["mlps"]:
        y = linear(act(linear(narrow, mlp["up"], mlp.get("bup"))), mlp["down"], mlp.get("bdown"))
        narrow = _normed(narrow + y, mlp["after"], call)
    return mapped(narrow, "wide")


@law("mobilebert_bottleneck")
def it_computes_on_narrow_vectors(mobilebert_bottleneck: Subject, draw: Draw) -> None:
    """MobileBERT's bottleneck equals its parts, computed text by text: a map to narrow vectors, attention
    and mlps with their sums, and a map back.
    """
    call = draw(mobilebert_bottleneck.calls())
    got, expected = mobilebert_bottleneck(call), np.zeros(call["x"].shape)
    for row, length in enumerate(call["lengths"]):
        expected[row, :length] = _expected(call["x"][row, :length].astype(np.float64), call)
    past = np.arange(got.shape[1]) >= call["lengths"][:, None]
    mobilebert_bottleneck.near(np.where(past[:, :, None], 0, got), expected, call)

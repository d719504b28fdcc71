"""Vectors of texts: the head's own, in any batch, and how alike two are."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import task_models
from tfm.refimpl.config import Pool
from tfm.runtime.tasks.embed import similarity

TEXTS = ["the cat", "is the cat catting the cat?", "", "the"]


@pytest.mark.parametrize("head", [Pool("mean", unit=True), Pool("max"), Pool("first"), Pool("last")])
def test_vectors_are_pooled_as_the_head_says(head: Pool) -> None:
    model = task_models.tiny_reader(head)
    got = model.embed(TEXTS, batch=3)
    assert (got.dtype, got.shape) == (np.float32, (4, 48))
    for vector, text in zip(got, TEXTS, strict=True):
        ids = np.array([model.text.encode(text, add_special_tokens=True)])
        states = model.engine.encode(ids)[0]  # type: ignore[attr-defined]
        pooled = {"mean": states.mean(0), "max": states.max(0), "first": states[0], "last": states[-1]}
        want = pooled[head.pooling]
        want = want / np.linalg.norm(want) if head.unit else want
        np.testing.assert_allclose(vector, want, rtol=1e-4, atol=1e-5)
    assert model.embed([]).shape == (0, 0)


def test_similarity_is_the_cosine() -> None:
    a, b = np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[4.0, 3.0], [-30.0, -40.0], [1.0, 0.0]])
    np.testing.assert_allclose(similarity(a, b), [[0.96, -1, 0.6], [0, 0, 0]])

"""Log-probabilities of tokens, against torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tfm.refimpl.decoding.logprobs import logprob, token_logprob

ROUNDING = 1e-13  # of logits up to 60, in float64: where one token is almost certain, ln p is near 0


@pytest.mark.parametrize("count", [0, 1, 5])
def test_they_are_those_of_torch(count: int) -> None:
    logits = np.random.default_rng(count).standard_normal(11).astype(np.float32) * 20
    logits[4] = -np.inf
    expected = torch.from_numpy(logits).double().log_softmax(0)
    best = expected.topk(count)
    for token in range(len(logits)):
        stated = token_logprob(logits, token, count)
        assert stated.token == token
        assert stated.logprob == pytest.approx(expected[token].item(), abs=ROUNDING)
        assert [other for other, _ in stated.top] == best.indices.tolist()
        np.testing.assert_allclose([p for _, p in stated.top], best.values.numpy(), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(("dtype", "rounding"), [(np.float32, 1e-5), (np.float64, ROUNDING)])
def test_that_of_one_token_is_torchs_too(dtype: type, rounding: float) -> None:
    logits = np.random.default_rng(3).standard_normal(1000).astype(dtype) * 20
    logits[::7] = -np.inf
    expected = torch.from_numpy(logits).double().log_softmax(0)
    for token in (1, int(logits.argmax())):
        assert logprob(logits, token) == pytest.approx(expected[token].item(), abs=rounding)


def test_the_lower_id_of_equal_logits_comes_first() -> None:
    assert [token for token, _ in token_logprob(np.float32([1, 2, 2, 0]), 0, 2).top] == [1, 2]

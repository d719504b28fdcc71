"""Adaptive softmax against torch.nn.AdaptiveLogSoftmaxWithLoss, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from helpers import tiny_models
from helpers.tolerances import equal
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.config import LM, AdaptiveSoftmax, Config
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.ops.adaptive_softmax import (
    adaptive_log_probs,
    adaptive_predict,
    adaptive_target_log_probs,
    log_softmax,
)
from tfm.refimpl.params.shapes import parameter_shapes

seeds = st.integers(0, 2**32 - 1)
cuts = st.sets(st.integers(1, 28), min_size=1, max_size=4).map(sorted)


@given(seeds, cuts, st.booleans(), st.sampled_from((0.1, 1.0, 8.0)))
def test_adaptive_softmax_is_torchs(seed: int, cutoffs: list[int], biased: bool, scale: float):
    """log_prob, forward and predict, with clusters of unequal size and width."""
    rng = np.random.default_rng(seed)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(
        16, 29, cutoffs, div_value=2.0, head_bias=biased, dtype=torch.float64
    )
    with torch.no_grad():
        for p in theirs.parameters():
            p.copy_(torch.from_numpy(rng.standard_normal(p.shape) * scale))
    matrix = lambda part: part.weight.detach().numpy().T  # noqa: E731
    tails = [{"down": matrix(down), "up": matrix(up)} for down, up in list(theirs.tail)]  # pyright: ignore[reportGeneralTypeIssues]
    head = matrix(theirs.head)
    bias = theirs.head.bias.detach().numpy() if biased else None
    x, targets = rng.standard_normal((3, 5, 16)), rng.integers(0, 29, (3, 5))
    rows = torch.from_numpy(x).flatten(0, 1)
    with torch.no_grad():
        full, best = theirs.log_prob(rows), theirs.predict(rows)
        forward = theirs(rows, torch.from_numpy(targets).flatten())
    equal(adaptive_log_probs(x, head, tails, bias), full.unflatten(0, (3, 5)))
    log_probs = adaptive_target_log_probs(x, targets, head, tails, bias)
    equal(log_probs, forward.output.unflatten(0, (3, 5)))
    equal(-log_probs.mean(), forward.loss)
    assert (adaptive_predict(x, head, tails, bias).flatten() == best.numpy()).all()


@given(seeds, st.sampled_from((0.1, 1.0, 300.0)))
def test_log_softmax_is_torchs(seed: int, scale: float):
    logits = np.random.default_rng(seed).standard_normal((2, 3, 7)) * scale
    equal(log_softmax(logits), torch.log_softmax(torch.from_numpy(logits), -1))


@given(cuts, st.sampled_from((1.0, 1.5, 2.0)), st.booleans())
def test_leaves_have_the_shapes_of_torchs(cutoffs: list[int], divisor: float, bias: bool):
    """Of a Config's head, whose rule for the widths of clusters is torch's."""
    theirs: Any = torch.nn.AdaptiveLogSoftmaxWithLoss(48, 97, cutoffs, divisor, bias)
    adaptive = AdaptiveSoftmax(tuple(cutoffs), divisor)
    config = replace(tiny_models.llama(), head=LM(False, bias=bias, adaptive=adaptive))
    shapes = {name: shape for name, shape in parameter_shapes(config).items() if name.startswith("head.")}
    parts = [part.weight.T.shape for tail in theirs.tail for part in tail]
    expected = [theirs.head.weight.T.shape, *([theirs.head.bias.shape] if bias else []), *parts]
    assert list(shapes.values()) == [tuple(shape) for shape in expected]


def test_a_models_logits_are_torchs_log_probabilities():
    """torch's module over the last vectors, which a head of the identity gives as they are."""
    config = tiny_models.adaptive()
    params = tiny_models.weights(config, dtype=np.float64)
    plain = replace(config, head=LM(tied=False))
    identity = {**params, "head": {"table": np.eye(48)}}
    ids = np.array([[3, 90, 61, 7]])
    at = np.arange(4)[None]

    def logits(model: Config, weights: Any) -> np.ndarray:
        engine = NumpyEngine(model, weights)
        return engine.step(ids, engine.start(1), at=at)[0]

    vectors, head = logits(plain, identity), params["head"]
    theirs: Any = torch.nn.AdaptiveLogSoftmaxWithLoss(48, 97, [60, 80], 4.0, True, dtype=torch.float64)
    with torch.no_grad():
        theirs.head.weight.copy_(torch.from_numpy(head["frequent"].T))
        theirs.head.bias.copy_(torch.from_numpy(head["bias"]))
        for tail, (down, up) in zip(head["tails"], list(theirs.tail), strict=True):
            down.weight.copy_(torch.from_numpy(tail["down"].T))
            up.weight.copy_(torch.from_numpy(tail["up"].T))
        expected = theirs.log_prob(torch.from_numpy(vectors[0]))
    equal(logits(config, params)[0], expected)

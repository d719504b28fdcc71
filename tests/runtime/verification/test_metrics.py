"""Fidelity over a text equals the definitions, whatever the chunks."""

import numpy as np
import pytest
from helpers import tiny_models
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.runtime.verification import metrics as module
from tfm.runtime.verification.metrics import fidelity, log_softmax

CONFIG = tiny_models.llama()
IDS = np.random.default_rng(3).integers(0, 97, 70)


def engine(seed: int) -> NumpyEngine:
    return NumpyEngine(CONFIG, tiny_models.weights(CONFIG, seed))


def test_figures_equal_the_definitions(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 7)
    found = fidelity(engine(1), engine(0), IDS, window=32)
    kl, same, nll, count = 0.0, 0, np.zeros(2), 0
    for begin in range(0, len(IDS), 32):
        row = IDS[begin : begin + 32]
        both = []
        for runner in (engine(1), engine(0)):
            logits, _ = runner.step(row[None], runner.start(), at=np.arange(len(row))[None])
            p = np.exp(logits[0].astype(np.float64))
            both.append(p / p.sum(-1, keepdims=True))
        model, truth = both
        kl += (truth * np.log(truth / model)).sum()
        same += (model.argmax(-1) == truth.argmax(-1)).sum()
        for i, p in enumerate(both):
            nll[i] -= np.log(p[np.arange(len(row) - 1), row[1:]]).sum()
        count += len(row) - 1
    assert found.kl == pytest.approx(kl / len(IDS), rel=1e-5)
    assert found.agreement == same / len(IDS)
    assert found.perplexity == pytest.approx(np.exp(nll[0] / count), rel=1e-5)
    assert found.reference_perplexity == pytest.approx(np.exp(nll[1] / count), rel=1e-5)
    assert found.positions == len(IDS)


def test_a_model_equals_itself():
    found = fidelity(engine(0), engine(0), IDS)
    assert (found.kl, found.agreement) == (0, 1)
    assert found.perplexity == found.reference_perplexity


def test_it_stops_early(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    asked = iter([False, False, True, True])
    assert fidelity(engine(0), engine(0), IDS, window=16, enough=lambda: next(asked)).positions == 16


def test_large_logits_dont_overflow():
    assert np.allclose(
        log_softmax(np.array([[1e4, 1e4, -1e4]], np.float32)), [[-np.log(2), -np.log(2), -2e4 - np.log(2)]]
    )

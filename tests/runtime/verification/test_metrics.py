"""Fidelity over a text equals the definitions, whatever the chunks."""

import numpy as np
import pytest
from helpers import tiny_models
from helpers.refused import refused
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import LimitError
from tfm.runtime.verification import metrics as module
from tfm.runtime.verification.metrics import fidelity, kl_divergence, likeness, log_softmax

CONFIG = tiny_models.llama()
IDS = np.random.default_rng(3).integers(0, 97, 70)


def engine(seed: int) -> NumpyEngine:
    return NumpyEngine(CONFIG, tiny_models.weights(CONFIG, seed))


@pytest.mark.parametrize("before", [(), (5, 9)])
def test_figures_equal_the_definitions(monkeypatch, before):
    """Predictions of the tokens before a text don't count, nor of its first one."""
    monkeypatch.setattr(module, "CHUNK", 7)
    found = fidelity(engine(1), engine(0), IDS, window=32, before=before)
    kl, same, nll, count, room = 0.0, 0, np.zeros(2), 0, 32 - len(before)
    for begin in range(0, len(IDS), room):
        row = IDS[begin : begin + room]
        both = []
        for runner in (engine(1), engine(0)):
            read = np.array([[*before, *row]])
            logits, _ = runner.step(read, runner.start(), at=np.arange(read.size)[None])
            p = np.exp(logits[0, len(before) :].astype(np.float64))
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


def test_a_window_has_room_for_a_text():
    with refused(LimitError, "window", "3", "tokens"):
        fidelity(engine(0), engine(0), IDS, window=3, before=(1, 2, 3))


def test_a_model_equals_itself():
    found = fidelity(engine(0), engine(0), IDS)
    assert (found.kl, found.agreement) == (0, 1)
    assert found.perplexity == found.reference_perplexity


def test_it_stops_early(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    asked = iter([False, False, True, True])
    assert fidelity(engine(0), engine(0), IDS, window=16, enough=lambda _: next(asked)).positions == 16


def test_kl_is_of_the_truth_and_not_of_the_model():
    """The first row's KL is 1/4 log 2 either way, the second row's isn't."""
    p = np.array([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]])
    q = np.array([[0.25, 0.25, 0.5], [0.5, 0.25, 0.25]])
    want = 0.25 * np.log(2) + 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.05 / 0.25)
    assert kl_divergence(np.log(p), np.log(q)) == pytest.approx(want)
    assert kl_divergence(np.log(p), np.log(p)) == 0


def test_kl_of_nearly_equal_and_of_far_predictions_keeps_its_digits():
    """For small d it is Σ p d² / 2, far below float64's rounding; a token of probability 0 costs nothing."""
    logits, change = np.zeros((1, 4)), 1e-11 * np.array([[1.0, -1.0, 1.0, -1.0]])
    assert kl_divergence(log_softmax(logits), log_softmax(logits + change)) == pytest.approx(5e-23, 1e-3, 0)
    far = log_softmax(np.array([[0.0, -2000.0]])), log_softmax(np.array([[0.0, 0.0]]))
    assert kl_divergence(*far) == pytest.approx(np.log(2))
    assert kl_divergence(*reversed(far)) == pytest.approx(1000 - np.log(2))


def test_likeness_of_encoders_equals_the_definitions():
    config, texts = tiny_models.encoder(layers=1), [[3, 1, 4], [1, 5]]
    model, truth = (NumpyEngine(config, tiny_models.weights(config, seed)) for seed in (1, 0))
    outputs, expected = (
        np.concatenate([engine.predict(np.array([ids]))[0] for ids in texts]).astype(np.float64)
        for engine in (model, truth)
    )
    p, q = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in (expected, outputs))
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(outputs, expected, strict=True)]
    found = likeness(model, truth, texts)
    assert (found.cosine, found.lowest) == pytest.approx((np.mean(cosines), min(cosines)))
    assert found.rms == pytest.approx(np.sqrt(np.mean((outputs - expected) ** 2)))
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(-1).mean())
    assert found.agreement == np.mean(outputs.argmax(-1) == expected.argmax(-1))
    assert found.texts == len(texts)


def test_large_logits_dont_overflow():
    assert np.allclose(
        log_softmax(np.array([[1e4, 1e4, -1e4]], np.float32)), [[-np.log(2), -np.log(2), -2e4 - np.log(2)]]
    )

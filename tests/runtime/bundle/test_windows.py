"""Layers with a window keep only its tokens, and every driver generates the specification's text."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import text_strategies, tiny_models
from helpers.exported import exported
from helpers.refused import refused
from tfm.refimpl.checkpoint.open import Generation
from tfm.refimpl.decoding.beam import BeamSearch, beam_search
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.speculative import DraftModel, PromptLookup, speculate
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.errors import LimitError
from tfm.refimpl.ops import cache_kind
from tfm.runtime.analysis import sizes
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.tasks import Conversation, Model
from tfm.runtime.tasks.continuous_batching import Batch, Row
from tfm.runtime.verification.checks.table import CHECKS
from tfm.runtime.verification.verify import verify

WORDS = text_strategies.byte_level()
CONFIG = tiny_models.mixed_windows(context=400, vocabulary=WORDS.get_vocab_size())
PARAMS = tiny_models.weights(CONFIG, seed=2)
SPEC = NumpyEngine(CONFIG, PARAMS)
PROMPT = list(range(5, 36))
# Not all of a chat's past stays what it was.
COUNTED = "chat: {{ messages | length }}{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}:"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> OrtEngine:
    bundle = exported(tmp_path_factory.mktemp("windows"), CONFIG, seed=2)
    assert (bundle.cache, bundle.refused) == ("windowed", ())
    return OrtEngine(bundle, threads=1)


@pytest.fixture
def small(engine: OrtEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that are soon full."""
    monkeypatch.setattr(cache_kind, "SLACK", 4)
    monkeypatch.setattr(engine, "chunk", 4)


def row(seed: int = 0) -> GeneratedSequence:
    return GeneratedSequence(np.roll(PROMPT, seed)[: 31 - 6 * seed].tolist(), max_new_tokens=40)


def spoken(engine: Any) -> dict[str, list[int]]:
    """The text of each driver."""
    texts = {"single": list(generate(engine, row(), chunk=7))}
    for name, drafter in (("lookup", PromptLookup()), ("draft", DraftModel(engine, engine))):
        texts[name] = list(speculate(engine, row(), drafter))
    texts["beams"] = beam_search(engine, BeamSearch(PROMPT, 3, max_new_tokens=40))[0].tokens
    rows = [row(seed) for seed in range(3)]
    for _ in Batch(engine, chunk=7).run([*map(Row, rows)], 2):
        pass
    return texts | {f"row {i}": each.tokens for i, each in enumerate(rows)}


def test_every_driver_makes_the_specifications_text(small: None, engine: OrtEngine) -> None:
    want = spoken(SPEC)
    assert spoken(engine) == want
    assert want["single"] == want["lookup"] == want["draft"] == want["row 0"]
    assert all(len(tokens) == 40 for tokens in want.values())


def test_a_chat_whose_past_changes_is_read_again(small: None, engine: OrtEngine) -> None:
    source = SimpleNamespace(
        tokenizer=WORDS.to_str(), chat_template=COUNTED, tool_use_template=None, generation=Generation(),
        labels=(),
    )  # fmt: skip
    ours, spec = (Conversation(Model(e, source)) for e in (engine, SPEC))
    cached = []
    for message in ("the cat sat on a mat", "and?"):
        answers = [talk.say(message, max_new_tokens=25, greedy=True) for talk in (ours, spec)]
        assert "".join(answers[0]) == "".join(answers[1])
        cached = [answer.timings["cached_tokens"] for answer in answers]
    assert cached[0] == 0 < cached[1]


def test_a_draft_model_rereads_another_text(small: None, engine: OrtEngine) -> None:
    """The draft's cache holds the beginning of the text, but no longer the tokens of its windows there."""
    drafter = DraftModel(engine, SPEC)
    for prompt in (PROMPT, [*PROMPT[:3], *PROMPT[:2:-1]]):
        drafted = speculate(engine, GeneratedSequence(prompt, max_new_tokens=30), drafter)
        assert list(drafted) == list(generate(SPEC, GeneratedSequence(prompt, max_new_tokens=30)))


def test_only_the_slack_can_be_truncated(engine: OrtEngine) -> None:
    """With the room that is really allocated, which `inspect` predicts."""
    rng = np.random.default_rng(0)
    tokens, lengths = rng.integers(0, 97, (2, 330)), np.array([330, 290])
    at = np.array([[3, 140, 329], [200, 100, 289]])
    logits, cache = engine.step(tokens, engine.start(2), lengths, at)
    expected, _ = SPEC.step(tokens, SPEC.start(2), lengths, at)
    assert np.array_equal(logits.argmax(-1), expected.argmax(-1))
    assert (cache.floor > 0).all()
    assert (cache.floor < lengths - cache_kind.SLACK).all()
    low = int(cache.floor[1])
    with refused(LimitError, "row", "1", low, "tokens", low - 1):
        cache.truncate(np.array([330, low - 1]))
    cache = cache.truncate(np.array([0, low]))
    logits, cache = engine.step(tokens[:, :1], cache)
    for i, length in enumerate((0, low)):
        text = np.append(tokens[i, :length], tokens[i, 0])[None]
        assert logits[i, 0].argmax() == SPEC.step(text, SPEC.start())[0].argmax()
    assert cache.floor[0] == 0
    capacity, nbytes, layers = cache.capacity, cache.nbytes, cache.take().layers
    held_bytes = sum(buffer.read()[0].nbytes for layer in layers for buffer in layer)
    assert nbytes == 2 * held_bytes, "of two rows"
    assert held_bytes == sizes.cache_bytes(CONFIG, capacity, 4, "windowed")
    assert held_bytes < sizes.cache_bytes(CONFIG, capacity, 4)


def test_verify_detects_that_a_token_too_many_is_dropped(
    engine: OrtEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "caches of windows, tokens dropped: largest error"
    rows = {row.name: row for row in verify(engine.model.parent, full=True).rows}
    assert rows[name].ok
    assert rows[name].note == "after 292 tokens"
    monkeypatch.setattr(cache_kind, "retained", lambda window: window - 2)
    assert [row.name for row in verify(engine.model.parent, full=True).failed] == [name]
    unchecked = verify(engine.model.parent, seconds=0, full=True).unchecked
    assert CHECKS["windows"].subject in [row.name for row in unchecked]

"""On kernels a text is the same however it is computed: drafts are made by default, and change nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_models
from helpers.exported import exported
from reports import same_texts
from tfm import runtime
from tfm.refimpl.config import Decoder
from tfm.refimpl.decoding import speculative
from tfm.refimpl.decoding.speculative import PromptLookup
from tfm.runtime.ort.engine import OrtEngine
from tfm.runtime.tasks import Model, timed_engine
from tfm.runtime.tasks.timed_engine import TimedEngine

CONFIGS: dict[str, Callable[[], Decoder]] = {
    "biases": lambda: tiny_models.llama(bias=True, vocabulary=101, mlp=79, context=128),
    "normed heads": lambda: tiny_models.llama(qk_norm=True, tied=False),
    "windows": tiny_models.mixed_windows,
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The bundle of a config, made once."""
    folder = tmp_path_factory.mktemp("same_texts")

    def made(name: str) -> Path:
        path = folder / name / "bundle"
        if not path.exists():
            exported(folder / name, CONFIGS[name](), seed=4, quant="int8")
        return path

    return made


def prompts(model: Model, count: int) -> list[list[int]]:
    """Random ones that repeat themselves in part, of unequal lengths."""
    rng = np.random.default_rng(7)
    vocabulary = model.config.embedding.vocabulary
    parts = [rng.integers(0, vocabulary, rng.integers(2, 14)).tolist() for _ in range(count)]
    return [[*part, *part[: len(part) // 2]] for part in parts]


def check(path: Path, count: int, new: int, folder: Path) -> None:
    models = {threads: runtime.load(path, threads=threads) for threads in (1, 2)}
    assert all(model.same_bits for model in models.values())
    engines = {n: model.engine for n, model in models.items() if isinstance(model.engine, OrtEngine)}
    asked = same_texts.Asked(prompts(models[1], count), frozenset({3}), new)
    found = list(same_texts.differences(engines, asked, folder))
    assert len(found) == 2 * 2 * 3 * (3 + 2)  # samplers, threads, chunks, drafts and batches
    assert [one for one in found if one[2]] == []


@pytest.mark.usefixtures("kernels_on")
def test_texts_are_the_same_however_they_are_computed(bundles, tmp_path: Path) -> None:
    check(bundles("biases"), 5, 8, tmp_path)


@pytest.mark.long
@pytest.mark.usefixtures("kernels_on")
@pytest.mark.parametrize("name", CONFIGS)
def test_more_texts_are_the_same_however_they_are_computed(bundles, name: str, tmp_path: Path) -> None:
    check(bundles(name), 16, 8, tmp_path)


@pytest.mark.usefixtures("kernels_on")
def test_drafts_are_made_by_default_whatever_they_are_measured_to_cost(
    bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = runtime.load(bundles("biases"), threads=1)
    ids = prompts(model, 1)[0] * 2
    drafted: list[int] = []

    class Counted(PromptLookup):
        def propose(self, sequence, count):
            found = super().propose(sequence, count)
            drafted.append(len(found))
            return found

    monkeypatch.setattr(runtime.tasks.generate, "PromptLookup", Counted)
    options = ({"greedy": True}, {"temperature": 0.8, "seed": 3, "repetition_penalty": 1.1})
    plain = [model.generate_ids(ids, max_new_tokens=40, draft=False, **one) for one in options]
    assert drafted == []
    costs = itertools.cycle([0.0, 1e9, float("nan"), -1.0, float("inf"), 1.2])
    for cost in (lambda *_: 0.0, lambda *_: 1e9, lambda *_: next(costs)):
        with monkeypatch.context() as patch:
            patch.setattr(TimedEngine, "cost", cost)
            drafted.clear()
            assert [model.generate_ids(ids, max_new_tokens=40, **one) for one in options] == plain
            assert drafted
            assert any(drafted) == (cost(0) != 1e9)
    clock = np.random.default_rng(0)
    monkeypatch.setattr(timed_engine.time, "perf_counter", lambda: float(clock.standard_normal() * 1e6))
    assert [model.generate_ids(ids, max_new_tokens=40, **one) for one in options] == plain


@pytest.mark.usefixtures("kernels_on")
def test_without_the_promise_no_drafts_are_made_by_default(bundles, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("a draft was made")

    monkeypatch.setattr(speculative.PromptLookup, "propose", fail)
    monkeypatch.setenv("TFM_KERNELS", "0")
    model = runtime.load(bundles("biases"), threads=1)
    assert isinstance(model.engine, OrtEngine)
    assert model.drafting is None
    assert len(model.generate_ids([1, 2, 1, 2, 1, 2], max_new_tokens=9)) == 9


def test_a_step_costs_what_was_measured_lately(monkeypatch: pytest.MonkeyPatch) -> None:
    class Engine:
        config = None

        def step(self, tokens, *_):
            nonlocal now
            now += 1.0 if tokens.size == 1 else lasts
            return None, None

    now, lasts = 0.0, 1.5
    monkeypatch.setattr(timed_engine.time, "perf_counter", lambda: now)
    timed = TimedEngine(Engine())
    assert timed.cost(5) == speculative.estimated_cost(5)
    timed.step(np.zeros((1, 5)), None)
    assert timed.cost(5) == speculative.estimated_cost(5)  # nobody knows what one token costs
    timed.step(np.zeros((1, 1)), None)
    assert (timed.cost(5), timed.cost(4)) == (1.5, speculative.estimated_cost(4))
    lasts = 9.0  # a step that was disturbed
    timed.step(np.zeros((1, 5)), None)
    assert timed.cost(5) == 1.5
    for _ in range(timed_engine.RECENT):
        timed.step(np.zeros((1, 5)), None)
    assert timed.cost(5) == 9.0

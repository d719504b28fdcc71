"""Steps of one token a row with all places fixed: on the CPU, which is a device too, and over stubs of CUDA,
where a step is captured but nothing is computed."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers import tiny_models
from helpers.cuda_placement import environment
from helpers.drained import drained
from helpers.end_to_end import RecordingEngine
from helpers.exported import exported
from helpers.refused import refused
from tfm.refimpl.checkpoint.open import materialize
from tfm.refimpl.decoding.loop import GeneratedSequence, generate
from tfm.refimpl.decoding.sampler import Sampler
from tfm.refimpl.engine.cache_kinds import cache_kinds
from tfm.refimpl.engine.numpy_engine import NumpyEngine
from tfm.refimpl.error_budget import TRIES, error_terms, largest_difference
from tfm.refimpl.errors import NumericError
from tfm.refimpl.params.tree import map_leaves
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort import engine as runtime
from tfm.runtime.ort.decode_step import AHEAD, DecodeSteps
from tfm.runtime.ort.kv_cache import CacheBuffers

CONFIG = tiny_models.mixed_windows(context=60)
PROMPT = (5, 17, 40)
STEPS = """
import json, sys
from pathlib import Path
import numpy as np
import onnxruntime as ort
from helpers.cuda_stubs import counts
from tfm.runtime.bundle.bundle import open_bundle
from tfm.runtime.ort import decode_step
from tfm.runtime.ort import engine as runtime

ort.preload_dlls = lambda: None  # the machine's own libraries of CUDA, if it has some
runtime.FIRST_CAPACITY = 8
decode_step.FIRST_CAPTURED, runtime.MOST_CAPTURES = 1, 2
engine = runtime.OrtEngine(open_bundle(Path(sys.argv[1])), "cuda", threads=1)
told = [counts()]
cache = engine.start()
logits, cache = engine.step(np.array([[5, 17, 40]]), cache)
told.append(counts())
for _ in range(5):
    best, cache = engine.best(np.array([[7]]), cache)
    told.append(counts())
for step in engine.best, engine.best, engine.step:  # from the ninth token on in a larger cache
    best, cache = step(np.array([[7]]), cache)
    told.append(counts())
_, cache = engine.step(np.array([[5, 17, 40]]), engine.start())
for _ in range(3):
    best, cache = engine.best(np.array([[7]]), cache)
    told.append(counts())
runtime.FIRST_CAPACITY = 32
engine._captures = iter(range(10, 14))
_, cache = engine.step(np.array([[5, 17, 40]]), engine.start())
ahead = []
for _ in range(4):
    best, cache = engine.best(np.array([[7]]), cache, 4)
    ahead.append(counts())
print(json.dumps({"told": told, "ahead": ahead, "shape": list(logits.shape), "device": engine.device}))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decode_step")
    return exported(folder, CONFIG, seed=3, target="ort-cuda", quant="fp16").path


@pytest.fixture
def engine(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> runtime.OrtEngine:
    """The bundle's engine on the CPU, with caches that are outgrown soon."""
    monkeypatch.setattr(runtime, "choose", lambda *_: "cpu")
    monkeypatch.setattr(runtime, "FIRST_CAPACITY", 8)
    return runtime.OrtEngine(open_bundle(bundle), threads=1)


def test_steps_are_those_of_the_specification(engine: runtime.OrtEngine, bundle: Path) -> None:
    """Within the budget of float16, from an empty cache on, past windows and through growing caches."""
    rng, half = np.random.default_rng(0), np.finfo(np.float16)
    tokens, params = rng.integers(0, 97, (2, 20)), materialize(open_bundle(bundle).params())

    def specified(change: Callable[[Any], Any]) -> np.ndarray:
        leaves = map_leaves(lambda _, leaf: change(leaf), params)
        at = np.tile(np.arange(20), (2, 1))
        spec = NumpyEngine(CONFIG, leaves)
        return spec.step(tokens, spec.start(2), at=at)[0]

    def moved(leaf: np.ndarray) -> np.ndarray:
        towards = np.where(rng.random(leaf.shape) < 0.5, np.inf, -np.inf).astype(np.float16)
        return np.nextafter(leaf.astype(np.float16), towards).astype(np.float64)

    exact, typed = (specified(lambda leaf, to=to: leaf.astype(to)) for to in (np.float64, np.float16))
    budget = error_terms(exact, typed, [specified(moved) for _ in range(TRIES)], eps=float(half.eps)).budget
    cache, steps = engine.start(2), []
    for i in range(20):
        logits, cache = engine.step(tokens[:, i : i + 1], cache)
        steps.append(logits)
    error = largest_difference(np.concatenate(steps, 1), exact)
    assert error <= budget, f"off by {error:.3g}, the budget is {budget:.3g}"
    assert budget < np.abs(exact).max() / 20, "a budget that would let anything pass"


def test_greedy_text_is_chosen_where_it_is_computed(engine: runtime.OrtEngine) -> None:
    called: list[Any] = []
    best = engine.best
    engine.best = lambda *arguments: (called.append(1), best(*arguments))[1]
    chosen = list(generate(engine, GeneratedSequence(PROMPT, max_new_tokens=30)))
    assert len(called) == 8, "four tokens at a time; the prompt gives the first"
    recorder = RecordingEngine(engine)
    tokens = list(generate(recorder, GeneratedSequence(PROMPT, max_new_tokens=30)))
    assert chosen == tokens == [int(np.argmax(logits)) for logits in recorder.logits]
    assert len(set(tokens)) > 3


def test_steps_ahead_are_single_steps(engine: runtime.OrtEngine) -> None:
    """Their tokens and what they leave in the cache, to the bit, also where some are taken back."""
    tokens, lengths = np.array([[5, 17, 40], [9, 2, 0]]), np.array([3, 2])
    one, ahead = (engine.step(tokens, engine.start(2), lengths)[1] for _ in range(2))
    last, single = np.array([[7], [11]]), []
    for limit in (4, 3, 1, 9, 2):  # the last steps have a larger cache, and windows drop tokens before
        best, ahead = engine.best(last, ahead, limit)
        assert best.shape[1] == min(limit, AHEAD)
        single = []
        for _ in range(best.shape[1]):
            last, one = engine.best(last, one)
            single.append(last)
        assert best.tolist() == np.concatenate(single, 1).tolist()
    assert ahead.lengths.tolist() == one.lengths.tolist() == [17, 16]
    for cut in (0, 2):
        one, ahead = (cache.truncate(cache.lengths - cut) for cache in (one, ahead))
        (expected, one), (logits, ahead) = engine.step(last, one), engine.step(last, ahead)
        assert np.array_equal(logits, expected)


def test_a_recurrence_takes_a_step_at_a_time(engine: runtime.OrtEngine) -> None:
    """What it has read can't be taken back."""
    cache = engine.step(np.array([PROMPT]), engine.start())[1]
    engine.kinds = (*engine.kinds, *cache_kinds(tiny_models.convolutions()))
    best, cache = engine.best(np.array([[7]]), cache, 4)
    assert best.shape == (1, 1)
    assert cache.lengths.tolist() == [4]


def test_steps_ahead_have_room_in_short_buffers(engine: runtime.OrtEngine, bundle: Path) -> None:
    short = runtime.OrtEngine(open_bundle(bundle), threads=1, chunk=2)
    texts = [list(generate(one, GeneratedSequence(PROMPT, max_new_tokens=50))) for one in (engine, short)]
    assert texts[0] == texts[1]


def test_a_text_that_ends_between_steps_leaves_its_own_tokens(engine: runtime.OrtEngine) -> None:
    whole = list(generate(engine, GeneratedSequence(PROMPT, max_new_tokens=12)))
    for end in range(1, 10):
        sequence = GeneratedSequence(PROMPT, max_new_tokens=12, stop_ids=frozenset({whole[end]}))
        tokens, cache = drained(generate(engine, sequence))
        assert tokens == whole[: whole.index(whole[end])]
        assert cache.lengths.tolist() == [len(PROMPT) + len(tokens)]


def test_what_needs_logits_gets_them(engine: runtime.OrtEngine) -> None:
    engine.best = lambda *_: pytest.fail("logits were wanted")
    samplers = Sampler(temperature=0.7), Sampler(repetition_penalty=1.5)
    for options in ({"logprobs": 2}, *({"sampler": one} for one in samplers)):
        sequence = GeneratedSequence(PROMPT, max_new_tokens=3, **options)
        assert len(list(generate(engine, sequence))) == 3


def test_rows_of_a_batch_have_their_own_best_tokens(engine: runtime.OrtEngine) -> None:
    tokens, lengths = np.array([[5, 17, 40], [9, 2, 0]]), np.array([3, 2])
    caches = [engine.step(tokens, engine.start(2), lengths)[1] for _ in range(2)]
    best, cache = engine.best(np.array([[7], [11]]), caches[0])
    logits, other = engine.step(np.array([[7], [11]]), caches[1])
    assert best.tolist() == logits.argmax(-1).tolist()
    assert cache.lengths.tolist() == other.lengths.tolist() == [4, 3]


def test_a_logit_that_is_not_finite_is_an_error(engine: runtime.OrtEngine) -> None:
    _, cache = engine.step(np.array([PROMPT]), engine.start())
    for layer in cache._buffers.layers:
        for buffer in layer:
            buffer.fill(np.full(buffer.shape, np.nan, buffer.dtype))
    with refused(NumericError, "finite"):
        engine.best(np.array([[7]]), cache)


def test_a_step_is_captured_once_for_each_cache_and_replayed(bundle: Path, cuda_stubs: Path) -> None:
    command = [sys.executable, "-c", STEPS, str(bundle)]
    child = subprocess.run(command, env=environment(cuda_stubs), capture_output=True, text=True)
    assert child.returncode == 0, child.stderr[-2000:]
    result = json.loads(child.stdout)
    assert result["device"] == "cuda"
    assert result["shape"] == [1, 1, CONFIG.embedding.vocabulary]
    told = result["told"]
    # A prompt has shapes of its own, and the first step is waited for. The ninth token has another cache, so
    # other places. No number is left for the third cache.
    assert [one["captured"] for one in told] == [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2]
    assert [one["replayed"] for one in told] == [0, 0, 0, 1, 2, 3, 4, 4, 5, 6, 6, 6, 6]
    # Four at a time: all but the first step are captured; in the end four are launched and waited for once.
    ahead = [told[-1], *result["ahead"]]
    steps = [{name: after[name] - before[name] for name in after} for before, after in pairwise(ahead)]
    assert [one["captured"] for one in steps] == [3, 1, 0, 0]
    assert [one["replayed"] for one in steps] == [3, 4, 4, 4]
    assert [one["waited"] for one in steps[2:]] == [1, 1]
    launched = [after["launched"] - before["launched"] for before, after in pairwise(told)]
    assert [bool(count) for count in launched] == [True] * 3 + [False] * 3 + [True] * 2 + [False] + [True] * 3


@pytest.mark.gpu
def test_captured_steps_give_the_same_tokens_in_as_much_memory(bundle: Path) -> None:
    """As uncaptured ones, and a further text takes no more of the GPU's memory than its capture."""

    def free() -> int:
        memory = [ctypes.c_size_t(), ctypes.c_size_t()]
        assert ctypes.CDLL("libcudart.so.13").cudaMemGetInfo(*map(ctypes.byref, memory)) == 0
        return memory[0].value

    def text(engine: runtime.OrtEngine) -> list[int]:
        return list(generate(engine, GeneratedSequence(PROMPT, max_new_tokens=40)))

    captured, plain = (runtime.OrtEngine(open_bundle(bundle), "cuda") for _ in range(2))
    plain._captures = None
    expected, before = text(plain), 0
    for count in range(4):
        assert text(captured) == expected
        before = before if count else free()
    assert before - free() < 16 * 2**20


@pytest.mark.parametrize("first", range(4))
def test_steps_at_once_each_read_after_one_token_more_wherever_the_circle_begins(first: int):
    """What is written before the first of several steps, on no device."""
    filled: dict[str, np.ndarray] = {}
    runs: list[int] = []

    def buffer(name: str) -> Any:
        return SimpleNamespace(fill=lambda values: filled.update({name: np.array(values)}))

    steps: Any = DecodeSteps.__new__(DecodeSteps)
    steps._bindings = [SimpleNamespace(io=i) for i in range(4)]
    steps._tokens, steps._past, steps._held = buffer("tokens"), buffer("past"), {5: buffer("held")}
    steps._session = SimpleNamespace(run_with_iobinding=lambda io, options: runs.append(io))
    steps._captures, steps._captured, steps._options, steps._steps = None, {}, None, 0
    steps.run(np.zeros((2, 1)), np.array([7, 3]), {5: np.array([4, 3])}, first, 3)
    assert runs == [(first + i) % 4 for i in range(3)]
    for i, step in enumerate(runs):
        assert filled["past"][step].tolist() == [7 + i, 3 + i]
        assert filled["held"][step].tolist() == [4 + i, 3 + i]


def test_a_row_that_is_put_has_dropped_what_its_source_has():
    """Of layers with a window: a prefix that several texts share may be longer than these hold."""

    def buffers(*dropped: int) -> CacheBuffers:
        return CacheBuffers((), [], None, 8, 3, {4: np.array(dropped)})

    made = buffers(0, 0)
    made.put(1, buffers(7), 11)
    assert made.dropped[4].tolist() == [0, 7]
    made.put(1, buffers(7), 0)
    assert made.dropped[4].tolist() == [0, 0]

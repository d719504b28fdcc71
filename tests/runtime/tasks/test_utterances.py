"""Utterances have all that is spoken, at its place, and come once a pause is heard."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tfm.refimpl.engine.sound import RATE
from tfm.runtime.tasks.utterances import BESIDE, CHUNK, Utterance, utterances

PAUSE = 4 * CHUNK / RATE


def spoken(*likely: float) -> np.ndarray:
    """A sound whose chunks are as likely spoken as they are loud."""
    return np.repeat(likely, CHUNK).astype(np.float64)


def loud(chunk: np.ndarray) -> float:
    return float(np.round(np.abs(chunk).max(), 6))


def found(sound: np.ndarray, longest: float = 1000.0, pause: float = PAUSE) -> list[tuple[int, int]]:
    """The first chunk of each utterance, and the one behind it."""
    parts = utterances([sound], loud, pause=pause, longest=longest)
    return [(at // CHUNK, (at + len(samples)) // CHUNK) for at, samples in parts]


def test_an_utterance_has_what_is_beside_it_and_ends_with_its_pause():
    quiet, words = [0.0] * 30, [0.9, 0.1, 0.0, 0.0, 0.6]
    assert found(spoken(*quiet, *words, *quiet)) == [(30 - BESIDE, 30 + 5 + 4)]
    assert found(spoken(*words, *quiet, *words)) == [(0, 9), (35 - BESIDE, 40)]
    assert found(spoken(*quiet)) == []
    soon = spoken(*words, *[0.0] * 14, *words)  # the second begins a chunk after the first has ended
    assert found(soon, pause=13 * CHUNK / RATE) == [(0, 18), (19 - BESIDE, 24)]


def test_speech_begins_with_more_than_it_goes_on_with():
    quiet = [0.1] * 20
    assert found(spoken(*quiet, *[0.45] * 9, *quiet)) == []
    assert found(spoken(*quiet, 0.5, *[0.36] * 9, *quiet)) == [(10, 34)]
    assert found(spoken(*quiet, 0.5, *[0.34] * 9, *quiet)) == [(10, 25)]


def test_a_long_utterance_is_cut_where_it_is_quiet():
    likely = [0.9] * 40
    likely[3], likely[21], likely[25] = 0.4, 0.5, 0.36
    parts = found(spoken(*likely), longest=30 * CHUNK / RATE)
    assert parts == [(0, 26), (26, 40)]


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.8]), st.integers(1, 9)), max_size=9), st.data())
def test_all_that_is_spoken_is_in_utterances_however_it_comes(
    runs: list[tuple[float, int]], data: st.DataObject
):
    likely = [one for one, count in runs for _ in range(count)]
    sound = spoken(*likely) + np.arange(len(likely) * CHUNK) * 1e-9  # each sample another
    sound = sound[: len(sound) - data.draw(st.integers(0, 300))] if len(sound) else sound
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sound)), max_size=5)))
    longest = 12 * CHUNK / RATE
    parts = [*utterances(np.split(sound, cuts), loud, pause=PAUSE, longest=longest)]
    assert [at for at, _ in parts] == [
        at for at, _ in utterances([sound], loud, pause=PAUSE, longest=longest)
    ]
    inside = np.zeros(len(sound), bool)
    for at, samples in parts:
        assert np.array_equal(samples, sound[at : at + len(samples)])
        assert len(samples) <= 13 * CHUNK + BESIDE * CHUNK
        inside[at : at + len(samples)] = True
    assert inside[sound >= 0.5].all()


def test_what_may_be_an_utterance_is_told_before_its_pause_is_over():
    """After 7 chunks, 0.2 seconds; an utterance that goes on, or is cut, isn't what was told."""
    words, pause = [0.9] * 5, 13 * CHUNK / RATE
    sound = spoken(*words, *[0.0] * 6, *words, *[0.0] * 8, *words, *[0.0] * 20, *words)
    told: list[Utterance] = []
    parts = [*utterances([sound], loud, pause=pause, on_pause=told.append)]
    assert [(at, len(samples) // CHUNK) for at, samples in told] == [(0, 5 + 6 + 5 + 7), (0, 29 + 7)]
    assert [part is told[1] for part in parts] == [True, False]
    sound, told = spoken(*[0.9] * 20, *[0.2] * 8, *[0.9] * 3), []
    first, _ = utterances([sound], loud, pause=pause, longest=28 * CHUNK / RATE, on_pause=told.append)
    assert [len(samples) // CHUNK for _, samples in told] == [27]
    assert first is not told[0]


def test_an_utterance_comes_before_what_follows_its_pause_is_read():
    read = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal read
        for likely in [0.0] * 3 + [0.9] * 5 + [0.0] * 20:
            read += 1
            yield spoken(likely)

    next(utterances(blocks(), loud, pause=PAUSE))
    assert read == 3 + 5 + 4
